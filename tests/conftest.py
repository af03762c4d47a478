import importlib.util
import itertools
import os
import re
import tempfile
from pathlib import Path

# Compilation dominates on two cores. Set before jax is imported.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(tempfile.gettempdir()) / "egd-optax-jax-cache"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# NumPy's BLAS threads spin beside XLA's; one test stood still for minutes.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import numpy as np
import pytest

hypothesis.settings.register_profile("fixed", deadline=None, derandomize=True)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def easy(rng):
    """The sign of the first of fourteen numbers, which any optimizer learns."""
    from egd_optax.grokking.problems.tasks import Task

    inputs = rng.normal(size=(200, 14)).astype(np.float32)
    return Task("sign", inputs, (inputs[:, 0] > 0).astype(np.int32), classes=2)


_tests_done = itertools.count(1)


def pytest_runtest_teardown():
    """Each compiled program takes a few of the 65 530 memory maps that Linux allows a
    process, and a worker of this suite compiles more than that holds.
    """
    maps = Path("/proc/self/maps")
    if next(_tests_done) % 25 or not maps.exists():
        return
    if maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


# Programs that tests start in processes of their own.
collect_ignore = [
    "commands_of_a_job.py",
    "eight_devices.py",
    "two_devices.py",
    "two_processes.py",
    "two_threads.py",
]

# Without Flax, what remains are the tests of the library: those of its wheel alone.
if importlib.util.find_spec("flax") is None:
    beyond = re.compile(
        r"^(from|import) (flax|egd_optax\.grokking|jupytext)|^(ROOT|BENCHMARKS) =", re.M
    )
    collect_ignore += [
        path.name
        for path in Path(__file__).parent.glob("*.py")
        if beyond.search(path.read_text())
    ]
