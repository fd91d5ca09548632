"""Mean field against published points, closed forms for erf and ReLU, and finer quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

from gradhorizon.theory import mean_field as mf
from gradhorizon.theory._quadrature import grid


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
    (1.3, 0.31531648, 0.88016351, 1.0, 7.83407, 1.78524),
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


def test_halving_the_spacing_changes_nothing():
    for gain in (1.0, 20.0):
        for f in (
            lambda z, g=gain: jnp.tanh(g * z) ** 2,
            lambda z, g=gain: jnp.cosh(g * z) ** -4.0,
        ):
            coarse, weights = grid(np.dtype(float), every=2)
            # the rule's error is exp(-π²/(gain·dz)), 1e-31 on the coarse grid at gain 20
            assert abs(float(mf.gaussian_mean(f)) - float(jnp.sum(weights * f(coarse)))) <= 1e-14
    for k, moment in ((2, 1.0), (4, 3.0), (8, 105.0)):
        ours = float(mf.gaussian_mean(lambda z, k=k: z**k))
        assert abs(ours / moment - 1) <= 1e-13


# ½ ln χ of x' = J tanh x at gain g: Molgedey, Schuchhardt & Schuster 1992, by quadrature
EXPONENTS = {
    1.01: 6.4534631e-5, 1.05: 0.001435725757, 1.2: 0.016476259567, 1.5: 0.065217211913,
    2.0: 0.154724229831, 3.0: 0.310249315145, 5.0: 0.532427941632, 10.0: 0.856435189197,
}  # fmt: skip


@pytest.mark.parametrize("gain", sorted(EXPONENTS))
def test_exponent_of_large_random_tanh_networks(gain):
    q = mf.length_fixed_point("tanh", gain**2, 0.0)
    rate = 0.5 * np.log(float(mf.susceptibility("tanh", gain**2, q)))
    assert abs(rate - EXPONENTS[gain]) <= 1e-11


@pytest.mark.parametrize(
    ("noise", "gain"),
    [(0.01, 1.193400725), (0.05, 1.327009661), (0.5, 1.686169464), (2.0, 2.065525625)],
)
def test_critical_gain_under_noise(noise, gain):
    """Input noise of variance s² acts like a bias variance (Molgedey et al. 1992)."""
    assert abs(np.sqrt(float(mf.critical_sigma_w2("tanh", noise))) - gain) <= 1e-9


def test_vanilla_recurrent_memory_scale():
    """σ_w = 1, σ_v = .025, input moment .46: q = .0121930035, χ = .9766013215, ξ = 42.2355."""
    scales = mf.depth_scales("tanh", 1.0, 0.025**2 * 0.46)
    assert abs(float(scales.q) - 0.0121930035) <= 1e-10
    assert abs(float(scales.chi) - 0.9766013215) <= 1e-10
    assert abs(float(scales.xi_gradient) - 42.2355) <= 1e-4


@pytest.mark.parametrize("noise", [20.0, 100.0, 400.0])
def test_critical_line_far_out(noise):
    """Gains of 9 to 41, and no answer where the grid would not resolve the slope."""
    sw2 = float(mf.critical_sigma_w2("tanh", noise))
    q = mf.length_fixed_point("tanh", sw2, noise)
    assert abs(float(mf.susceptibility("tanh", sw2, q)) - 1) <= 1e-11
    assert np.isnan(float(mf.critical_sigma_w2("tanh", 4000.0)))


@pytest.mark.parametrize("activation", ["relu", jax.nn.relu])
def test_dying_relu_keeps_the_limit_of_its_susceptibility(activation):
    """At σ_w² < 2 without bias q* = 0, and χ = σ_w²/2 for every q > 0."""
    q = mf.length_fixed_point(activation, 1.0, 0.0)
    assert float(q) == 0.0
    assert abs(float(mf.susceptibility(activation, 1.0, q)) - 0.5) <= 1e-12
    q = mf.length_fixed_point(activation, 2.5, 0.0)
    assert abs(float(mf.susceptibility(activation, 2.5, q)) - 1.25) <= 1e-12
    assert abs(float(mf.critical_sigma_w2("relu", 0.0)) - 2) <= 1e-12
    assert np.isnan(float(mf.critical_sigma_w2("relu", 0.1)))


def test_relu_length_scale():
    """The length map has slope σ_w²/2, so ξ_q = ξ_grad."""
    scales = mf.depth_scales("relu", 1.2, 0.3)
    assert abs(float(scales.xi_length) + 1 / np.log(0.6)) <= 1e-11
    assert abs(float(scales.xi_gradient) + 1 / np.log(0.6)) <= 1e-11


def test_hard_tanh_length_scale():
    """σ_w² E zφφ'/√q = σ_w² E z² 1[|z| < a] at a = 1/√q, = σ_w² (erf(a/√2) - 2a pdf(a))."""
    scales = mf.depth_scales("hard_tanh", 0.9, 0.1)
    a = 1 / np.sqrt(float(scales.q))
    slope = 0.9 * (special.erf(a / np.sqrt(2)) - 2 * a * stats.norm.pdf(a))
    # the grid sees the end of the linear part to within half a spacing, 0.0017 in z
    bound = 0.9 * 2 * 0.0017 * a**2 * stats.norm.pdf(a)
    assert abs(np.exp(-1 / float(scales.xi_length)) - slope) <= bound


def test_erf_correlations_in_closed_form():
    """E erf(u)erf(v) = (2/π) asin(2qc/(1+2q)), E erf'erf' = (4/π)/√((1+2q)² - 4q²c²)."""
    sw2, sb2 = 2.5, 0.1
    scales = mf.depth_scales("erf", sw2, sb2)
    q, c = float(scales.q), float(scales.correlation)
    assert 0 < c < 0.99 < 1 < float(scales.chi)
    assert abs((sw2 * 2 / np.pi * np.arcsin(2 * q * c / (1 + 2 * q)) + sb2) / q - c) <= 1e-12
    slope = sw2 * 4 / np.pi / np.sqrt((1 + 2 * q) ** 2 - 4 * q**2 * c**2)
    assert abs(float(scales.xi_correlation) * np.log(slope) + 1) <= 1e-11
    length = sw2 * 4 / np.pi / ((1 + 2 * q) * np.sqrt(1 + 4 * q))  # d/dq of the length map
    assert abs(float(scales.xi_length) * np.log(length) + 1) <= 1e-11


def test_gradients_follow_the_implicit_equations():
    """erf: dq*/dσ_w² = E φ²/(1 - slope), dq*/dσ_b² = 1/(1 - slope), by hand."""
    sw2, sb2 = 1.5, 0.1
    q = float(mf.length_fixed_point("erf", sw2, sb2))
    slope = sw2 * 4 / np.pi / ((1 + 2 * q) * np.sqrt(1 + 4 * q))
    fixed_point = lambda w, b: mf.length_fixed_point("erf", w, b)  # noqa: E731
    ours = jax.jit(jax.grad(fixed_point, argnums=(0, 1)))(sw2, sb2)
    exact = ((q - sb2) / sw2 / (1 - slope), 1 / (1 - slope))
    assert max(abs(float(a) - b) for a, b in zip(ours, exact, strict=True)) <= 1e-11
    # on the critical line σ_w² = (π/4) √(1 + 4q), q = σ_b² + √(1 + 4q)/2 · asin(2q/(1 + 2q))
    h = 1e-4
    line = lambda b: np.pi / 4 * np.sqrt(1 + 4 * critical_q(b))  # noqa: E731
    slope = jax.grad(lambda b: mf.critical_sigma_w2("erf", b))(0.3)
    central = (line(0.3 + h) - line(0.3 - h)) / (2 * h)
    assert abs(float(slope) - central) <= 1e-6
    assert abs(float(mf.critical_sigma_w2("erf", 0.3)) - line(0.3)) <= 1e-11


def critical_q(sb2):
    equation = lambda q: sb2 + np.sqrt(1 + 4 * q) / 2 * np.arcsin(2 * q / (1 + 2 * q)) - q  # noqa: E731
    return optimize.brentq(equation, 1e-3, 100, xtol=1e-15, rtol=1e-14)


def test_vmap_and_jit():
    weights = jnp.array([0.5, 1.5, 3.0])
    together = jax.jit(jax.vmap(lambda w: mf.length_fixed_point("tanh", w, 0.05)))(weights)
    alone = [float(mf.length_fixed_point("tanh", float(w), 0.05)) for w in weights]
    assert np.max(np.abs(np.asarray(together) / alone - 1)) <= 1e-13
    assert jax.vmap(lambda w: mf.depth_scales("tanh", w, 0.05))(weights).chi.shape == (3,)


def test_callables_equal_names():
    for name, function in (("tanh", jnp.tanh), ("erf", jax.scipy.special.erf)):
        q = mf.length_fixed_point(function, 1.8, 0.2)
        assert abs(float(q) - float(mf.length_fixed_point(name, 1.8, 0.2))) <= 1e-12
        ours = float(mf.susceptibility(function, 1.8, q))
        assert abs(ours - float(mf.susceptibility(name, 1.8, q))) <= 1e-12


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
    assert mf.susceptibility("tanh", 2.0, q).dtype == jnp.float32
    assert mf.depth_scales("tanh", 2.0, jnp.float32(0.1)).xi_correlation.dtype == jnp.float32
    for sb2, _, sw2 in LINE:
        ours = mf.critical_sigma_w2("tanh", jnp.float32(sb2))
        assert ours.dtype == jnp.float32
        assert abs(float(ours) / sw2 - 1) <= 1e-4


def test_unknown_activation():
    with pytest.raises(ValueError, match="`activation` must be one of tanh, erf, relu"):
        mf.length_fixed_point("tahn", 1.0, 0.0)


@pytest.mark.usefixtures("unchecked_types")
def test_activation_of_another_kind():
    with pytest.raises(TypeError, match="`activation` must be a name or a function. Received 3"):
        mf.susceptibility(3, 1.0, 1.0)
