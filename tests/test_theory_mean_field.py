"""Mean field against published points, closed forms for erf and ReLU, and finer quadrature."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from gradhorizon.theory import mean_field as mf


def test_nielsens_sigmoid_chain():
    """q* = 1 + E σ², χ = E σ'²: the factor per layer is 1/√χ = 4.881841034263."""
    q = mf.length_fixed_point("sigmoid", 1.0, 1.0)
    chi = mf.susceptibility("sigmoid", 1.0, q)
    assert abs(float(q) - 1.302134036306) <= 1e-11
    assert abs(float(chi) - 0.041959734636) <= 1e-11
    assert abs(1 / np.sqrt(float(chi)) - 4.881841034263) <= 1e-10


@pytest.mark.parametrize("q", [0.1, 1.0, 5.0])
def test_erf_in_closed_form(q):
    """E erf(√q z)² = (2/π) asin(2q/(1+2q)), E erf'² = (4/π)/√(1+4q)."""
    mapped = 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q))
    assert abs(float(mf.length_map("erf", q, 1.0, 0.0)) - mapped) <= 1e-12
    chi = 4 / np.pi / np.sqrt(1 + 4 * q)
    assert abs(float(mf.susceptibility("erf", 1.0, q)) - chi) <= 1e-12


def test_erf_fixed_point_satisfies_its_closed_form():
    for sw2, sb2 in ((1.5, 0.1), (400.0, 0.0), (0.3, 2.0)):
        q = float(mf.length_fixed_point("erf", sw2, sb2))
        assert abs(sw2 * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) + sb2 - q) <= 1e-11 * max(q, 1)
    assert float(mf.length_fixed_point("erf", 0.5, 0.0)) == 0.0
    gain = np.sqrt(np.pi) / 2
    assert abs(float(mf.critical_sigma_w2("erf", 0.0)) - gain**2) <= 1e-12


def test_relu_is_critical_at_two_and_grows_beyond():
    for q in (0.3, 7.0):
        assert abs(float(mf.susceptibility("relu", 2.0, q)) - 1) <= 1e-12
        assert abs(float(mf.length_map("relu", q, 2.0, 0.0)) - q) <= 1e-10 * q
    assert float(mf.length_fixed_point("relu", 2.5, 0.1)) == np.inf
    assert abs(float(mf.length_fixed_point("relu", 1.0, 0.3)) - 0.6) <= 1e-10


# σ_b², q*, σ_w² on the line χ = 1 for tanh (Schoenholz et al. 2017 print 1.76 at 0.05)
LINE = [
    (1e-5, 0.0203379531, 1.0395211285),
    (1e-3, 0.1072923561, 1.1891895852),
    (0.01, 0.2733009135, 1.4242052905),
    (0.05, 0.5700478816, 1.7609546396),
    (0.2, 1.1644962875, 2.2851524737),
    (0.3, 1.4611694469, 2.5051271897),
]


@pytest.mark.parametrize(("sb2", "q", "sw2"), LINE)
def test_tanh_critical_line(sb2, q, sw2):
    ours = float(mf.critical_sigma_w2("tanh", sb2))
    assert abs(ours - sw2) <= 1e-9
    fixed = mf.length_fixed_point("tanh", ours, sb2)
    assert abs(float(fixed) - q) <= 1e-9
    assert abs(float(mf.susceptibility("tanh", ours, fixed)) - 1) <= 1e-10


def test_critical_gain_without_bias_is_one():
    assert float(mf.critical_sigma_w2("tanh", 0.0)) == pytest.approx(1.0, abs=1e-14)


# σ_w², q*, χ, c*, ξ_c, ξ_q for tanh at σ_b² = 0.05
SCALES = [
    (1.0, 0.19359252, 0.75903165, 1.0, 3.62698, 1.74763),
    (1.7, 0.53307563, 0.98674081, 1.0, 74.918, 1.55825),
    (1.9, 0.65711185, 1.02845196, 0.838201, 39.352, 1.44095),
    (2.5, 1.06395838, 1.13351570, 0.446804, 11.7956, 1.17987),
    (4.0, 2.19549393, 1.34240241, 0.165065, 6.98027, 0.87329),
]


@pytest.mark.parametrize("row", SCALES)
def test_tanh_depth_scales(row):
    sw2, q, chi, correlation, xi_c, xi_q = row
    ours = mf.depth_scales("tanh", sw2, 0.05)
    assert abs(float(ours.q) - q) <= 1e-8
    assert abs(float(ours.chi) - chi) <= 1e-8
    assert abs(float(ours.correlation) - correlation) <= 1e-6
    assert abs(float(ours.xi_correlation) / xi_c - 1) <= 1e-4
    assert abs(float(ours.xi_length) / xi_q - 1) <= 1e-5
    assert abs(float(ours.xi_gradient) + 1 / np.log(chi)) <= 1e-5 * abs(1 / np.log(chi))


@pytest.mark.parametrize("gain", [1.0, 20.0])
def test_quadrature_resolves_sharp_activations(gain):
    """Against adaptive quadrature, at gain 1 and at gain 20."""
    exact = integrate.quad(
        lambda z: np.tanh(gain * z) ** 2 * stats.norm.pdf(z), -14, 14, limit=500, points=[0]
    )[0]
    assert abs(float(mf.length_map("tanh", gain**2, 1.0, 0.0)) - exact) <= 1e-9
    exact = integrate.quad(
        lambda z: np.cosh(np.minimum(np.abs(gain * z), 300)) ** -4 * stats.norm.pdf(z),
        -14, 14, limit=500, points=[0],
    )[0]  # fmt: skip
    assert abs(float(mf.susceptibility("tanh", 1.0, gain**2)) - exact) <= 1e-9


@pytest.mark.parametrize("gain", [1.5, 2.0, 3.0, 5.0])
def test_exponent_of_large_random_tanh_networks(gain):
    """λ_1 = ½ ln χ: Molgedey, Schuchhardt & Schuster 1992; values to 1e-9 by quadrature."""
    table = {1.5: 0.065217211913, 2.0: 0.154724229831, 3.0: 0.310249315145, 5.0: 0.532427941632}
    q = mf.length_fixed_point("tanh", gain**2, 0.0)
    rate = 0.5 * np.log(float(mf.susceptibility("tanh", gain**2, q)))
    assert abs(rate - table[gain]) <= 1e-9


def test_callables_equal_names():
    for name, function in (("tanh", jnp.tanh), ("erf", special_erf)):
        q = mf.length_fixed_point(function, 1.8, 0.2)
        assert abs(float(q) - float(mf.length_fixed_point(name, 1.8, 0.2))) <= 1e-12
        ours = float(mf.susceptibility(function, 1.8, q))
        assert abs(ours - float(mf.susceptibility(name, 1.8, q))) <= 1e-12


def special_erf(x):
    import jax

    return jax.scipy.special.erf(x)


def test_hard_tanh_linear_fraction():
    """E φ'² = erf(1/√(2q)) (Pennington et al. 2017)."""
    for q in (0.5, 2.0):
        exact = special.erf(1 / np.sqrt(2 * q))
        # the grid sees the edge of the linear part to within half a spacing, 0.0017 in z
        assert abs(float(mf.susceptibility("hard_tanh", 1.0, q)) - exact) <= 2 * 0.0017


def test_float32_inputs_give_float32():
    q = mf.length_fixed_point("tanh", jnp.float32(2.0), jnp.float32(0.1))
    assert q.dtype == jnp.float32
    assert abs(float(q) - float(mf.length_fixed_point("tanh", 2.0, 0.1))) <= 1e-5 * float(q)


def test_unknown_activation():
    with pytest.raises(ValueError, match="`activation` must be one of tanh, erf, relu"):
        mf.length_fixed_point("tahn", 1.0, 0.0)
