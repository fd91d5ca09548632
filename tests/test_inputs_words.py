"""Every error the package raises is composed by `worded`, so that all read alike."""

import ast
from pathlib import Path

import pytest

import gradhorizon

ROOT = Path(gradhorizon.__file__).parent
KINDS = ("ValueError", "TypeError", "MemoryError", "ArgumentError")


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_errors_are_composed_by_worded(path):
    tree = ast.parse(path.read_text())
    texts = {
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("worded(")
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        if ast.unparse(node.exc.func) in KINDS:
            argument = ast.unparse(node.exc.args[0])
            assert argument.startswith("worded(") or argument in texts, (node.lineno, argument)
