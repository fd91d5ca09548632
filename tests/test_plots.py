"""Figures: what is drawn is what the records say, the bytes repeat, strings are harmless."""

import io
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradhorizon as gh
from gradhorizon import plots, report


@pytest.fixture(scope="module")
def diagnosis():
    cell = gh.cells.elman(5, 2, recurrent_init=gh.inits.gaussian(0.7))
    xs = jax.random.normal(jax.random.key(0), (30, 2))
    return gh.diagnose(cell.step, cell.init(jax.random.key(1)), cell.initial_state(), xs)


def test_gradient_panel_draws_the_profile_in_decades():
    _, axes = plots.new_figure()
    by_lag = np.array([0.0, -np.log(10.0), -np.inf])
    plots.gradient_profile(axes, by_lag, label="a", threshold=1e-3)
    x, y = axes.lines[0].get_data()
    assert x.tolist() == [0, 1, 2]
    assert y[:2].tolist() == [0.0, -1.0]
    assert np.isnan(y[2])


def test_singular_panel_draws_one_curve_per_rank(diagnosis):
    _, axes = plots.new_figure()
    plots.singular_values(axes, diagnosis.singular, threshold=1e-3)
    curves = axes.lines[:5]
    values = np.asarray(diagnosis.singular.log_values) / np.log(10.0)
    for rank, curve in enumerate(curves):
        assert np.allclose(curve.get_ydata(), values[:, rank], equal_nan=True)


def test_matrix_panel_marks_what_lies_outside_the_unit_circle():
    _, axes = plots.new_figure()
    plots.matrix_spectrum(axes, np.diag([0.5, 2.0]))
    inside, outside = axes.lines[-2:]
    assert inside.get_xdata().tolist() == [0.5]
    assert outside.get_xdata().tolist() == [2.0]


def test_criteria_panel_has_a_bar_per_criterion(diagnosis):
    _, axes = plots.new_figure()
    plots.criteria(axes, diagnosis.criteria, lag=30)
    widths = [patch.get_width() for patch in axes.patches]
    rates = np.array([float(c.rate) for c in diagnosis.criteria])
    assert np.allclose(widths, np.where(np.isnan(rates), 0, rates))  # a rule may not apply


def test_figures_repeat_byte_for_byte(diagnosis):
    assert plots.png(diagnosis.plot()) == plots.png(diagnosis.plot())
    pdf = [io.BytesIO(), io.BytesIO()]
    for stream in pdf:
        plots.save(diagnosis.plot(), stream, kind="pdf")
    assert pdf[0].getvalue() == pdf[1].getvalue()


def test_style_leaves_no_trace():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    plots.png(plots.new_figure()[0])
    assert dict(mpl.rcParams) == before


def test_labels_are_escaped():
    assert plots.escape(r"$\frac$" + "\n") == r"\$\frac\$ "
    _, axes = plots.new_figure()
    plots.gradient_profile(axes, np.zeros(3), label=r"$\frac$")
    plots.png(axes.figure)
    assert len(plots.escape("x" * 10_000)) == 80


def test_exact_zeros_and_unresolved_values_can_be_drawn():
    dead = gh.diagnose(lambda p, h, x: p * h, 0.0, jnp.ones(2), length=10)
    assert plots.png(dead.plot())[:4] == b"\x89PNG"


def test_page_is_self_contained_and_escaped(diagnosis, tmp_path):
    target = tmp_path / "page.html"
    diagnosis.to_html(target)
    text = target.read_text()
    assert "<script" not in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "default-src 'none'" in text
    assert str(diagnosis).splitlines()[0] in text
    assert list(tmp_path.iterdir()) == [target]
    assert report.page(diagnosis, plots.png(diagnosis.plot())) == text


def test_matrix_figure():
    W = np.random.default_rng(0).normal(size=(6, 6))
    assert plots.png(plots.matrix(gh.analyze_matrix(W), W))[:4] == b"\x89PNG"
