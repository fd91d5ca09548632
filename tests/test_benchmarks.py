"""The benchmarks' page says what the stored results say; the results know where they are from."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
RESULTS = sorted(FOLDER.glob("results/*.json"))


def value(benchmark, key, **where):
    """Give one number of a stored result."""
    rows = json.loads((FOLDER / f"results/{benchmark}-cpu.json").read_text())["rows"]
    return next(r for r in rows if all(r[k] == v for k, v in where.items()))[key]


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_results_are_json_with_their_environment(path):
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert set(record) == {"benchmark", "question", "rows", "environment"}
    assert {"jax", "jaxlib", "device", "threads", "commit", "x64"} <= set(record["environment"])
    assert (FOLDER / f"{record['benchmark']}.py").exists()


def test_page_quotes_the_stored_ratios():
    ours = value("lyapunov", "seconds", n=256, method="gradhorizon, all")
    naive = value("lyapunov", "seconds", n=256, method="naive jax loop")
    lyapax = value("lyapunov", "seconds", n=256, method="lyapax, k = 256")
    floor = value("lyapunov", "in matrix products", n=256, method="gradhorizon, all")
    spectrum = value("long_products", "ratio", n=64, method="singular_spectrum")
    norms = value("long_products", "ratio", n=64, method="transition_norms")
    profile = value("gradient_profile", "ratio", method="gradient_profile")
    for quoted in (
        f"{profile:.2f} × `jax.value_and_grad`",
        f"{ours / naive:.2f} × the naive JAX loop",
        f"{ours / lyapax:.2f} × lyapax",
        f"{floor:.1f} × the bare matrix products",
        f"{spectrum:.1f} × a plain QR scan",
        f"all-lag norms {norms:.1f} ×",
    ):
        assert quoted in PAGE


def test_stored_accuracies_are_those_of_rounding():
    """Exponents equal the NumPy loop, singular values the SVD of a resolvable product."""
    for n in (32, 64, 256):
        assert value("lyapunov", "error", n=n, method="gradhorizon, all") <= 1e-8
        assert value("lyapunov", "error", n=n, method="gradhorizon, k = 1") <= 1e-12
    for n in (16, 64, 128):
        assert value("long_products", "error", n=n, method="singular_spectrum") <= 1e-11
