"""Every error the package raises is composed by `worded`, so that all read alike."""

import ast
from pathlib import Path

import pytest

import gradhorizon

ROOT = Path(gradhorizon.__file__).parent
KINDS = ("ValueError", "TypeError", "MemoryError", "ArgumentError")

# a layer of a stack adds its place to the worded error of its cell
EXCEPTIONS = {("cells/stacked.py", "text")}


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_errors_are_composed_by_worded(path):
    tree = ast.parse(path.read_text())
    texts = {
        ast.unparse(node.targets[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and (ast.unparse(node.value).startswith("worded(") or "` must " in ast.unparse(node.value))
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
            continue
        if ast.unparse(node.exc.func) in KINDS:
            argument = ast.unparse(node.exc.args[0])
            place = (str(path.relative_to(ROOT)), argument)
            good = argument.startswith("worded(") or argument in texts or place in EXCEPTIONS
            assert good, (node.lineno, argument)
