"""The library depends on jax and optax alone, and imports run one way."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import egd_optax

PACKAGE = Path(egd_optax.__file__).parent


def test_the_library_imports_without_the_workbench_and_its_dependencies():
    code = (
        "import sys, egd_optax\n"
        "heavy = {'flax', 'rich', 'tyro', 'matplotlib', 'egd_optax.grokking'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_only_public_optax_is_imported():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            assert not [name for name in names if "._" in name], path


def test_the_public_api_is_complete_and_documented():
    for name in egd_optax.__all__:
        assert getattr(egd_optax, name).__doc__, name
    assert egd_optax.__all__ == sorted(egd_optax.__all__)
    assert (PACKAGE / "py.typed").exists()


# What each wing may know. Within a wing, files may know each other.
KNOWS = {
    "arguments": set(),
    "meshes": set(),
    "polar": {"arguments", "meshes"},
    "leaves": {"arguments", "meshes"},
    "spectrum": {"polar", "leaves", "arguments", "meshes"},
    "transforms": {"polar", "leaves", "arguments", "meshes"},
}
# And each room of the workbench, of the others there.
WORKBENCH_KNOWS = {
    "files": set(),
    "differences": set(),
    "tables": set(),
    "problems": set(),
    "training": {"problems", "files"},
    "methods": {"problems"},
    "dimensions": set(),
    "spaces": {"dimensions", "methods"},
    "recipes": {"problems", "methods", "spaces"},
    "fourier": {"problems", "training"},
    "measures": {"fourier", "training"},
    "finished": {"training"},
    "report": {"finished", "figures", "training", "files"},
    "search": {
        *("problems", "training", "recipes", "spaces", "figures", "files"),
        *("differences", "tables"),
    },
    "phases": {"problems", "recipes", "search"},
    "phase_figure": {"phases", "figures", "search", "tables"},
    "figures": {"training", "files"},
    "summary": {"training", "tables"},
    "tracking": {"training"},
    "cli": {
        "problems",
        "training",
        "recipes",
        "search",
        "measures",
        "finished",
        "report",
        "phases",
        "phase_figure",
        "figures",
        "summary",
        "tracking",
        "files",
    },
}


def modules():
    """Name of each module of the library, and the names of those it imports."""
    paths = {
        ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PACKAGE.rglob("*.py")
    }
    graph = {}
    for name, path in paths.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
                found.add(node.module)
        graph[name] = found & paths.keys()
    return graph


def test_imports_run_down_only():
    for name, imported in modules().items():
        wing, *rooms = name.split(".")[1:]
        for other in imported:
            other_wing, *other_rooms = other.split(".")[1:]
            knows, one, two = KNOWS, wing, other_wing
            if (wing, other_wing) == ("grokking", "grokking"):
                knows, one, two = WORKBENCH_KNOWS, rooms[0], other_rooms[0]
            # The front door and the workbench know all of the library.
            allowed = one == two or two in knows.get(one, KNOWS)
            assert allowed, f"{name} -> {other}"


def test_no_modules_import_each_other():
    graph = modules()
    done = graphlib.TopologicalSorter(graph)
    done.prepare()  # raises CycleError
    assert len(graph) > 40


def test_files_are_short():
    lengths = {
        path: len(path.read_text().splitlines()) for path in PACKAGE.rglob("*.py")
    }
    assert max(lengths.values()) <= 300, max(lengths, key=lengths.get)
    library = [n for path, n in lengths.items() if "grokking" not in path.parts]
    assert sum(library) / len(library) <= 150
