"""The library depends on jax and optax alone, and imports run one way."""

import ast
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
