import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from egd_optax.polar.stacks import one_at_a_time_on_cpu


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="only Linux binds to processors"
)
def test_two_threads_are_enough():
    # Batched calls stand still here, for good.
    program = Path(__file__).parent / "two_threads.py"
    answer = subprocess.run(
        [sys.executable, program],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert answer.stdout == "done\n"


def test_what_belongs_to_a_matrix_goes_with_it(rng):
    x, factor = rng.normal(size=(2, 3, 4, 5)), rng.normal(size=(2, 3))
    x, factor = x.astype(np.float32), factor.astype(np.float32)
    of_stack = one_at_a_time_on_cpu(lambda x, factor: (factor * x.T, jnp.sum(x)))
    for mapped in (jax.vmap(of_stack), jax.jit(jax.vmap(of_stack))):
        products, sums = mapped(x, factor)
        np.testing.assert_allclose(products, factor[..., None, None] * x.mT, rtol=1e-6)
        np.testing.assert_allclose(sums, x.sum(axis=(2, 3)), rtol=1e-5)
    # One of them the same for all.
    products, _ = jax.vmap(of_stack, in_axes=(0, None))(x, factor[0])
    np.testing.assert_allclose(products, factor[0, :, None, None] * x.mT, rtol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 4, 9])
def test_side_by_side_is_as_in_turn(rng, monkeypatch, size):
    x = rng.normal(size=(size, 3, 4)).astype(np.float32)
    variables = "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"
    for settings, unroll in (
        # SciPy's OpenBLAS is given one thread then.
        ((None, None), 4),
        (("2", "1"), 1),
        (("1", None), 4),
        ((None, "1"), 4),
    ):
        for variable, value in zip(variables, settings, strict=True):
            if value is None:
                monkeypatch.delenv(variable, raising=False)
            else:
                monkeypatch.setenv(variable, value)
        # A new function each time: the environment is read when it is traced.
        of_stack = one_at_a_time_on_cpu(lambda x: x @ x.T)
        result = jax.jit(of_stack)(x)
        np.testing.assert_allclose(result, x @ x.mT, rtol=1e-5, atol=1e-6)
        program = str(jax.make_jaxpr(of_stack)(x))
        assert size == 1 or f"unroll={unroll}\n" in program


ONE_THREAD = """
import json, numpy, scipy.linalg, jax, egd_optax
from threadpoolctl import threadpool_info

def threads():
    found = {i["filepath"]: i["num_threads"] for i in threadpool_info()}
    parts = {part: [n for path, n in found.items() if f"{part}.libs" in path]
             for part in ("numpy", "scipy")}
    return parts

before = threads()
egd_optax.polar_by_eigh(jax.numpy.eye(3))
print(json.dumps([before, threads()]))
"""


@pytest.mark.parametrize("told", [None, "2"])
def test_lapack_has_one_thread_and_numpy_and_the_user_keep_theirs(told):
    cleared = {k: v for k, v in os.environ.items() if not k.endswith("NUM_THREADS")}
    answer = subprocess.run(
        [sys.executable, "-c", ONE_THREAD],
        env=cleared | ({} if told is None else {"OPENBLAS_NUM_THREADS": told}),
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = json.loads(answer.stdout)
    if not before["scipy"]:
        pytest.skip("this SciPy brings no OpenBLAS of its own")
    assert after["numpy"] == before["numpy"]
    assert after["scipy"] == ([1] if told is None else before["scipy"])


def test_it_is_traced_for_one_matrix_at_a_time():
    shapes = []

    def recorded(x):
        shapes.append(x.shape)
        return x

    jax.jit(one_at_a_time_on_cpu(recorded)).lower(jnp.ones((6, 2, 3)))
    assert set(shapes) == {(2, 3)}
