"""Whether the tests notice that a line of the mathematics is wrong.

    python benchmarks/reliability/mutation.py  # half an hour on two cores
    python benchmarks/reliability/mutation.py --quick  # three mutants

Each mutant is the library with one operator, comparison, number or call of a module of
TESTS changed. It is killed if a test of that module fails or stands still.
Annotations, docstrings and imports stay. The table of survivors goes to
results/mutation.csv, and docs/reliability.md says what they are. Exit status 1 if fewer
than 85 % were killed.
"""

import ast
import copy
import dataclasses
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import tyro
from rich.progress import track

ROOT = Path(__file__).parents[2]
ARGUMENTS = "test_arguments.py", "test_arguments_at_update.py"
# Tests of each module, the quickest first: one failure ends the run.
TESTS = {
    "transforms/switching": ["test_switching.py", *ARGUMENTS, "test_contract.py"],
    "transforms/grokfast": ["test_grokfast.py", *ARGUMENTS, "test_contract.py"],
    "polar/eigh": ["test_polar.py", "test_fallback.py", *ARGUMENTS],
    "polar/svd": ["test_polar.py", "test_fallback.py", *ARGUMENTS],
    "polar/randomized": ["test_randomized.py", *ARGUMENTS],
    "polar/stacks": ["test_polar.py", "test_stacks.py", *ARGUMENTS],
}
# Of tests for many modules, those for this one.
SELECTED = {
    "transforms/switching": "switch or delayed_frobenius",
    "transforms/grokfast": "grokfast",
}
SECONDS = 300
LEAST_KILLED = 0.85

_OTHER = {
    ast.Add: [ast.Sub],
    ast.Sub: [ast.Add],
    ast.Mult: [ast.Div],
    ast.Div: [ast.Mult],
    ast.Mod: [ast.Mult],
    ast.FloorDiv: [ast.Mult],
    ast.Pow: [ast.Mult],
    ast.BitOr: [ast.BitAnd],
    ast.BitAnd: [ast.BitOr],
    ast.And: [ast.Or],
    ast.Or: [ast.And],
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Mutation testing of the modules in TESTS."""

    quick: bool = False
    """Three mutants of switching.py, its own tests alone."""
    out: Path = Path(__file__).parent / "results"
    """Folder for mutation.csv."""


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    module: str
    line: int
    before: str
    after: str
    source: str


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of an expression."""
    match node:
        case ast.BinOp() | ast.BoolOp():
            for other in _OTHER.get(type(node.op), []):
                yield _changed(node, op=other())
        case ast.Compare(ops=[op]):
            for other in _OTHER.get(type(op), []):
                yield _changed(node, ops=[other()])
        case ast.UnaryOp():
            yield node.operand
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int()):
            yield ast.Constant(node.value + 1)
        case ast.Constant(value=float()):
            yield ast.Constant(1.5 * node.value)
        case ast.IfExp():
            yield node.body
            yield node.orelse
        case ast.Call(args=[first, *_]) if not isinstance(first, ast.Starred):
            yield first


def mutants(module: str) -> Iterator[Mutant]:
    """All of a module."""
    tree = ast.parse((ROOT / "egd_optax" / f"{module}.py").read_text())
    for parent, field, index, node in _expressions(tree):
        for new in replacements(node):
            _put(parent, field, index, new)
            source = ast.unparse(tree)
            _put(parent, field, index, node)
            before, after = ast.unparse(node), ast.unparse(new)
            yield Mutant(module, node.lineno, before, after, source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and not isinstance(
            node.test, ast.Compare | ast.UnaryOp
        ):
            test = node.test
            node.test = ast.UnaryOp(ast.Not(), test)
            source, after = ast.unparse(tree), ast.unparse(node.test)
            node.test = test
            yield Mutant(module, node.lineno, ast.unparse(test), after, source)


def _expressions(
    node: ast.AST,
) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST) and not isinstance(child, ast.Raise):
                place = index if isinstance(value, list) else None
                if isinstance(child, ast.expr):
                    yield node, field, place, child
                yield from _expressions(child)


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node


def _changed(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def run_tests(module: str, folder: str, quick: bool) -> None:
    """The tests of a module on the library in ``folder``, in a process of its own."""
    import pytest

    os.chdir(folder)
    sys.path.insert(0, folder)
    with Path(os.devnull).open("w") as silence:
        os.dup2(silence.fileno(), 1)
        os.dup2(silence.fileno(), 2)
    files = TESTS[module][:1] if quick else TESTS[module]
    paths = [f"egd_optax/{module}.py", *(f"tests/{name}" for name in files)]
    options = ["-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"]
    status = pytest.main(
        [*options, "-k", SELECTED.get(module, "not two_threads"), *paths]
    )
    os._exit(int(status))


def outcome(module: str, source: str | None = None, *, quick: bool) -> str:
    """Of the tests of a module, its source replaced."""
    context = multiprocessing.get_context("forkserver")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("egd_optax", "tests"):
            shutil.copytree(ROOT / name, Path(folder) / name)
        shutil.copy(ROOT / "pyproject.toml", folder)
        if source is not None:
            (Path(folder) / "egd_optax" / f"{module}.py").write_text(source)
        process = context.Process(target=run_tests, args=(module, folder, quick))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            return "timeout"
    return "survived" if process.exitcode == 0 else "killed"


def main(options: Options) -> None:
    # Not above: it imports the package, and processes that run mutants import this.
    from benchmarks.shared import report

    modules = ["transforms/switching"] if options.quick else list(TESTS)
    for module in modules:
        if outcome(module, quick=options.quick) != "survived":
            sys.exit(f"the tests of {module}.py fail without a mutant")
    found = [mutant for module in modules for mutant in mutants(module)]
    if options.quick:
        found = found[:3]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = pool.map(
            lambda mutant: outcome(mutant.module, mutant.source, quick=options.quick),
            found,
        )
        pairs = list(zip(found, track(results, total=len(found)), strict=True))
    survivors = [mutant for mutant, result in pairs if result == "survived"]
    rows = []
    for module in modules:
        of_module = [mutant for mutant in found if mutant.module == module]
        alive = [mutant for mutant in survivors if mutant.module == module]
        share = f"{1 - len(alive) / len(of_module):.1%} killed"
        rows.append(dict(module=module, line="all", before=len(of_module), after=share))
        rows += [
            dict(module=module, line=x.line, before=x.before, after=x.after)
            for x in alive
        ]
    timeouts = sum(result == "timeout" for _, result in pairs)
    note = f"{len(found)} mutants, {len(survivors)} survived, {timeouts} timed out"
    report(rows, options.out / "mutation.csv", quick=options.quick, note=note)
    if len(survivors) > (1 - LEAST_KILLED) * len(found) and not options.quick:
        sys.exit(f"fewer than {LEAST_KILLED:.0%} of the mutants were killed")


if __name__ == "__main__":
    # The server from which processes fork has imported what takes long, and nothing
    # of this package.
    multiprocessing.set_forkserver_preload(["jax", "optax", "pytest", "chex"])
    main(tyro.cli(Options))
