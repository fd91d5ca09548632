"""The benchmarks' page says what the stored results say; the results know where they are from."""

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
PAGE = (FOLDER / "README.md").read_text(encoding="utf-8")
RESULTS = sorted(FOLDER.glob("results/*.json"))
LYAPUNOV = [(n, gain) for n in (64, 256, 512) for gain in (1.5, 3.0)]


def value(benchmark, key, **where):
    """Give one number of a stored result."""
    rows = json.loads((FOLDER / f"results/{benchmark}-cpu.json").read_text())["rows"]
    return next(r for r in rows if all(r[k] == v for k, v in where.items()))[key]


def lyapunov(key, n, gain, method="gradhorizon"):
    return value("lyapunov", key, n=n, gain=gain, method=method)


def leading(key, k, method):
    return value("leading", key, k=k, method=method)


def products(key, n, chain, method, dtype="float64"):
    return value("long_products", key, n=n, chain=chain, method=method, dtype=dtype)


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_results_are_json_with_their_environment(path):
    record = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert set(record) == {"benchmark", "question", "rows", "environment"}
    assert {"jax", "jaxlib", "device", "threads", "commit", "x64"} <= set(record["environment"])
    assert (FOLDER / f"{record['benchmark']}.py").exists()


def quotes():
    """Give the pieces of text that the page must contain, from the stored numbers."""
    profile = value("gradient_profile", "ratio", method="gradient_profile")
    yield f"{profile:.2f} × `jax.value_and_grad`"
    for n, gain in LYAPUNOV:
        peer, floors = lyapunov("ratio to lyapax", n, gain), lyapunov("in floors", n, gain)
        every = lyapunov("ratio to lyapax", n, gain, "gradhorizon, orthonormalize_every=1")
        yield f"| {n} | {gain:g} | {peer:.2f} | {floors:.1f} | {every:.2f} |"
    for k in (1, 8, 64):
        given, whole = (
            leading(key, k, f"gradhorizon, {way}")
            for key, way in (("in floors", "chain given"), ("ratio to lyapax", "from h0"))
        )
        yield f"| {k} | {given:.2f} | {whole:.2f} |"
    for n in (16, 64, 256):
        ratios = [
            products("ratio", n, chain, "singular_spectrum")
            for chain in ("Gaussian", "tanh network", "near identity")
        ]
        yield f"| {n} | {ratios[0]:.1f} | {ratios[1]:.1f} | {ratios[2]:.1f} |"
    lags = value("long_products", "ratio", method="singular_spectrum, 8 lags")
    yield f"eight lags cost {lags:.2f} × the longest alone"
    power = value("growth", "power", method="lyapunov_spectrum, k = 8", along="T")
    yield f"time ∝ T^{power:.2f}"
    memory = value("growth", "beyond the first (MiB)", T=1_000_000)
    yield f"{memory:.0f} MiB more at T = 10⁶ than at 10³"
    yield from predictor_quotes()
    outside, resolved = (value("error_bars", key, chain="all") for key in ("outside", "resolved"))
    yield f"{outside} of {resolved:,} resolved values"


RULES = ("predict", "a second measurement", "exponent of the prefix", "ρ at the mean state",
         "375 steps", "ρ(W) < 1", "mean field χ < 1", "σ₁(W) < 1/γ")  # fmt: skip
TIMED = tuple(f"{cell}, state of {n}" for n in (32, 128) for cell in ("elman", "lstm"))


def predictor(key, rows="report half"):
    return value("predictor", key, **{"networks of": rows})


def predictor_quotes():
    """Give the scores of `predict` and of every rule, on kinds it was not made with."""
    for rule in RULES:
        names = ("accuracy", "accuracy outside band", "speaks")
        shares = " | ".join(f"{100 * predictor(f'{rule}: {name}'):.1f} %" for name in names)
        error = predictor(f"{rule}: median error")
        yield f"| {rule} | {shares} | {'-' if error is None else f'{100 * error:.0f} %'} |"
    coverage, median = predictor("coverage"), predictor("predict: median error")
    yield f"holds {100 * coverage:.1f} % of the horizons; the median error is {100 * median:.1f} %"
    yield f"{predictor('networks')} networks of kinds on which nothing was tuned"
    for name in TIMED:
        whole, backward = (
            predictor(f"{what}, times predict", f"time, {name}")
            for what in ("diagnose", "gradient_profile")
        )
        yield f"| {name} | {100 / whole:.1f} % | {100 / backward:.0f} % |"


def test_no_certificate_was_ever_violated():
    for rows in ("report half", "tuning half"):
        assert predictor("certificate violations", rows) == 0
        assert predictor("false certificates", rows) == 0
        assert predictor("certificates", rows) > 50


def test_predictions_beat_every_rule_and_their_interval_is_honest():
    for rule in RULES[2:]:
        assert predictor("predict: accuracy") > predictor(f"{rule}: accuracy")
    assert 0.85 <= predictor("coverage") <= 0.95
    assert predictor("predict: median error") <= 0.1


def test_page_quotes_the_stored_numbers():
    for quoted in quotes():
        assert quoted in PAGE


def test_no_value_lies_outside_its_bar():
    assert value("error_bars", "outside", chain="all") == 0
    assert value("error_bars", "resolved", chain="all") >= 10_000


def test_stored_accuracies_are_those_of_rounding():
    """Exponents equal the NumPy loop, singular values the SVD of a resolvable product."""
    for n, gain in LYAPUNOV:
        oracle = lyapunov("rounding of the oracle", n, gain)
        assert lyapunov("largest difference", n, gain) <= 1e-8 + 3 * oracle
    for k in (1, 8, 64):
        assert leading("largest difference", k, "gradhorizon, from h0") <= 1e-8
    for n in (16, 64, 256):
        assert products("error", n, "near identity", "singular_spectrum") <= 1e-11


def test_lyapunov_spectrum_is_faster_than_its_peer():
    for n, gain in LYAPUNOV:
        assert lyapunov("ratio to lyapax", n, gain) < 1
    assert value("growth", "beyond the first (MiB)", T=1_000_000) < 100
