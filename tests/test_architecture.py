"""The house: imports point down, heavy imports stay where they belong, files stay small."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import gradhorizon

ROOT = Path(gradhorizon.__file__).parent
LAYERS = {
    "theory": 1, "cells": 1, "data": 1, "chain": 2, "products": 3, "regimes": 4,
    "remedies": 5, "sweeps": 5, "plots": 6, "report": 6, "studies": 7, "cli": 8, "__main__": 9,
}  # fmt: skip
# a diagnosis draws itself: the two places that may look up, and only from inside a method
DOORS = {("regimes/diagnose.py", "plots"), ("regimes/diagnose.py", "report")}
HOMES = {
    "matplotlib": {"plots", "report", "studies"},
    "optax": {"remedies"},
    "tyro": {"cli"},
    "tqdm": {"cli", "sweeps"},
    "flax": {"cells"},
    "equinox": {"cells"},
    "haiku": {"cells"},
}
FILES = sorted(p for p in ROOT.rglob("*.py"))


def place(path):
    """Give the folder or module a file belongs to."""
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imports(path):
    """Yield (module, inside a function) for every import statement."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(n)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for n in ast.walk(block)
    }
    nested = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef))
        for n in ast.walk(f)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in nested
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.relative_to(ROOT)}: a relative import hides its layer"
            if node.module == "gradhorizon":
                for alias in node.names:
                    yield f"gradhorizon.{alias.name}", id(node) in nested
            else:
                yield node.module, id(node) in nested


def layer(name):
    """Give a layer; private modules at the root are 0, and a new folder must be entered above."""
    return 0 if name.startswith("_") and name != "__main__" else LAYERS[name]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    here = place(path)
    if here == "__init__":
        return
    for module, nested in imports(path):
        if not module.startswith("gradhorizon."):
            continue
        there = module.split(".")[1]
        if there == here:
            continue
        if (str(path.relative_to(ROOT)), there) in DOORS:
            assert nested
            continue
        down = layer(there) < layer(here) or layer(there) == layer(here) == 0
        assert down, f"{path.relative_to(ROOT)} imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_libraries_stay_at_home(path):
    for module, _ in imports(path):
        homes = HOMES.get(module.split(".")[0])
        if homes is not None:
            assert place(path) in homes, f"{path.relative_to(ROOT)} imports {module}"


def test_other_libraries_are_imported_where_they_are_used():
    for path in FILES:
        for module, nested in imports(path):
            if module.split(".")[0] in ("flax", "equinox", "haiku"):
                assert path.parent.name == "adapters", f"{path.relative_to(ROOT)}: {module}"
                assert nested, f"{path.relative_to(ROOT)} imports {module} at its top"


def test_prediction_and_measurement_share_no_code():
    for path in FILES:
        for module, _ in imports(path):
            if place(path) == "theory":
                assert not module.startswith(("gradhorizon.products", "gradhorizon.chain"))
            if place(path) in ("products", "chain"):
                assert not module.startswith("gradhorizon.theory")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_small(path):
    text = path.read_text()
    assert len(text.splitlines()) < 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False) or ""
            body = node.end_lineno - node.body[0].lineno + 1 - len(doc.splitlines())
            assert body <= 50, f"{node.name} has {body} lines"


def run(code):
    """Run code in a fresh interpreter and give its output."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def test_importing_the_package_and_its_command_line_is_light():
    heavy = ("jax", "matplotlib", "numpy", "scipy", "optax")
    code = f"import sys, gradhorizon.cli; print([m for m in {heavy} if m in sys.modules])"
    assert run(code).strip() == "[]"


def test_public_names_load_and_touch_no_device():
    code = (
        "import gradhorizon as gh, jax\n"
        "for name in gh.__all__: getattr(gh, name)\n"
        "from jax._src import xla_bridge\n"
        "print(bool(xla_bridge._backends))"
    )
    assert run(code).strip() == "False"


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'diagnoze'"):
        _ = gradhorizon.diagnoze


def test_every_public_function_shows_an_example():
    for name in gradhorizon.__all__:
        value = getattr(gradhorizon, name)
        if callable(value) and not isinstance(value, type):
            assert ">>>" in value.__doc__, name
            assert "Returns" in value.__doc__, name
    modules = [gradhorizon.cells, gradhorizon.inits, gradhorizon.remedies, gradhorizon.tasks]
    modules += [gradhorizon.adapters]
    inside = [m for m in vars(gradhorizon.theory).values() if inspect.ismodule(m)]
    modules += [m for m in inside if m.__name__.startswith("gradhorizon.theory.")]
    for module in modules:
        home = module.__name__
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "").startswith(home)
            if inspect.isfunction(value) and own and "._" not in f"{home}.{name}":
                assert ">>>" in value.__doc__, f"{home}.{name}"
