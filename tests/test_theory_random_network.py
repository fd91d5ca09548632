"""Random networks: published values, an independent Hermite solver, simulations, limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, linalg, optimize, special, stats

from gradhorizon.theory import random_network as rn

# ½ ln χ of x' = J tanh x: Molgedey, Schuchhardt & Schuster 1992, by quadrature
MAP = {
    1.05: 0.001435725757, 1.1: 0.005068901344, 1.2: 0.016476259567, 1.25: 0.023534650132,
    1.5: 0.065217211913, 2.0: 0.154724229831, 2.5: 0.237176755521, 3.0: 0.310249315145,
    4.0: 0.432877855758, 5.0: 0.532427941632, 6.0: 0.615853931942, 8.0: 0.750328244292,
    10.0: 0.856435189197,
}  # fmt: skip
# variance and λ₁ of dx/dt = -x + J tanh x: Sompolinsky, Crisanti & Sommers 1988
FLOW = {
    1.5: (0.74768638, 0.04674623),
    2.0: (1.92480541, 0.11245817),
    3.0: (5.44632608, 0.23546059),
}


@functools.cache
def exponent(gain, leak=1.0, noise=0.0):
    return float(rn.largest_exponent(gain, leak=leak, noise_variance=noise))


@pytest.mark.parametrize("gain", sorted(MAP))
def test_map(gain):
    assert abs(exponent(gain) - MAP[gain]) <= 1e-11


def test_map_at_gain_twenty_against_adaptive_quadrature():
    mean = lambda f: integrate.quad(  # noqa: E731
        lambda z: f(z) * stats.norm.pdf(z), -14, 14, limit=500, points=[0]
    )[0]
    q = optimize.brentq(
        lambda q: 400 * mean(lambda z: np.tanh(np.sqrt(q) * z) ** 2) - q, 100, 500, xtol=1e-9
    )
    chi = 400 * mean(lambda z: np.cosh(np.minimum(np.abs(np.sqrt(q) * z), 300)) ** -4)
    assert abs(exponent(20.0) - 0.5 * np.log(chi)) <= 1e-9


@pytest.mark.parametrize(
    ("gain", "noise", "expected"), [(2.0, 0.5, 0.0919846), (1.5, 0.5, -0.0690423)]
)
def test_noise_suppresses_chaos_in_the_map(gain, noise, expected):
    """Molgedey, Schuchhardt & Schuster 1992."""
    assert abs(exponent(gain, 1.0, noise) - expected) <= 5e-8


@pytest.mark.parametrize("gain", sorted(FLOW))
def test_flow(gain):
    variance, rate = FLOW[gain]
    assert abs(exponent(gain, 0.0) - rate) <= 1e-6
    ours = float(rn.stationary_variance(gain, leak=0.0))
    assert abs(ours - variance) <= 1e-8


def hermite_flow(gain, points=1600, top=40.0):
    """Solve the flow again: Hermite series, the energy as potential, a dense eigenproblem.

    The orbit starts at its turning point by Taylor's series, and the operator is discretized to
    fourth order on the half line of even functions.
    """
    z, w = special.roots_hermitenorm(300)
    w = w / w.sum()

    def squares(variance):
        previous, current = np.zeros_like(z), np.ones_like(z)
        values, found = np.tanh(np.sqrt(variance) * z), []
        for n in range(220):
            found.append((w * values * current).sum() ** 2)
            previous, current = current, (z * current - np.sqrt(n) * previous) / np.sqrt(n + 1)
        return np.array(found)

    n = np.arange(220)
    energy = lambda v: -v / 2 + gain**2 * (squares(v) / (n + 1)).sum()  # noqa: E731
    variance = optimize.brentq(energy, 0.1, 20, xtol=1e-14)
    a2 = squares(variance)
    series = np.polynomial.Polynomial(a2)
    force = lambda c: c - gain**2 * series(c / variance)  # noqa: E731
    orbit = integrate.solve_ivp(
        lambda _, y: [y[1], force(y[0])], (0, 14), [variance, 0], rtol=1e-12, atol=1e-13,
        dense_output=True, method="DOP853",
    )  # fmt: skip
    decay = np.sqrt(1 - gain**2 * a2[1] / variance)
    tau = (np.arange(points) + 0.5) * top / points
    c = np.where(tau < 14, orbit.sol(np.minimum(tau, 14))[0], 0)
    c = np.where(tau < 14, c, orbit.sol(14)[0] * np.exp(-decay * (tau - 14)))
    slopes = series.deriv()(c / variance) / variance
    h2 = (top / points) ** 2
    # -ψ'' to fourth order on midpoints, mirrored at 0
    band = np.array([1, -16, 30, -16, 1]) / 12 / h2
    matrix = sum(np.diag(np.full(points - abs(k), band[k + 2]), k) for k in range(-2, 3))
    matrix[0, 0] += band[1]
    matrix[0, 1] += band[0]
    matrix[1, 0] += band[0]
    matrix += np.diag(1 - gain**2 * slopes)
    ground = linalg.eigh(matrix, eigvals_only=True, subset_by_index=[0, 0])[0]
    return variance, -1 + np.sqrt(1 - ground)


@pytest.mark.parametrize("gain", [2.0, 3.0])
def test_flow_against_an_independent_solver(gain):
    variance, rate = hermite_flow(gain)
    assert abs(float(rn.stationary_variance(gain, leak=0.0)) / variance - 1) <= 1e-8
    assert abs(exponent(gain, 0.0) - rate) <= 1e-7


@pytest.mark.parametrize("leak", [0.0, 0.6, 0.9])
def test_erf_covariance_solves_its_closed_equation(leak):
    """E erf(x)erf(y) = (2/π) asin(2c/(1 + 2C₀)): the stationarity of x, term by term."""
    gain, noise, keep = 1.7, 0.3, 1 - leak
    c = rn.autocovariance(gain, leak=leak, noise_variance=noise, activation="erf")
    t, v = np.asarray(c.times), np.asarray(c.values)
    u = 2 * v / (1 + 2 * v[0])
    if leak:  # x' - (1-δ) x = δ η + √δ ξ, squared and averaged at every lag
        assert np.allclose(t, leak * np.arange(512), rtol=1e-13)
        around = np.concatenate([v[1:2], v[:-2]]) + v[1:]
        left = (1 + keep**2) * v[:-1] - keep * around
        drive = gain**2 * 2 / np.pi * np.arcsin(u[:-1])
        right = leak**2 * drive + leak * noise * (np.arange(511) == 0)
        assert np.max(np.abs(left - right)) <= 1e-10 * v[0]
    else:  # C'² = C² - 2 g² ∫ C_φ, from C'(0+) = -s²/2 on
        primitive = (u * np.arcsin(u) + np.sqrt(1 - u**2) - 1) * (1 + 2 * v[0]) / np.pi
        speed = np.sqrt(np.maximum(v**2 - 2 * gain**2 * primitive, 0))
        assert abs(speed[0] - noise / 2) <= 1e-7
        # sixth-order central differences on the way
        weights = np.array([-1, 9, -45, 0, 45, -9, 1]) / 60 / t[1]
        slopes = np.convolve(v, weights[::-1], mode="valid")[:30]
        assert np.max(np.abs(slopes + speed[3:33])) <= 2e-4 * speed.max()


def test_far_lags_of_a_small_leak():
    """C ~ r^(t/δ) with (1-δ)(r + 1/r) = 1 + (1-δ)² - δ² g² C_φ'(0), C_φ'(0) = (4/π)/(1 + 2C₀)."""
    gain, leak, noise = 1.7, 0.2, 0.3
    c = rn.autocovariance(gain, leak=leak, noise_variance=noise, activation="erf")
    t, v = np.asarray(c.times), np.asarray(c.values)
    assert t[1] > 1.5 * leak  # interpolated, not the lattice of the network itself
    far = 4 / np.pi / (1 + 2 * v[0])
    half = (1 + (1 - leak) ** 2 - leak**2 * gain**2 * far) / (2 * (1 - leak))
    rate = np.log(half - np.sqrt(half**2 - 1)) / leak
    first, last = np.flatnonzero(v < 1e-4)[0], np.flatnonzero(v < 1e-7)[0]
    ours = np.log(v[last] / v[first]) / (t[last] - t[first])
    assert abs(ours / rate - 1) <= 1e-5


def simulate(gain, leak, noise, n=700, time=250, seed=3):
    """Follow one network and one perturbation: λ₁ per unit time, its error, and the variance."""
    rng = np.random.default_rng(seed)
    weights = rng.standard_normal((n, n)) * gain / np.sqrt(n)
    x, v = rng.standard_normal((2, n))
    logs, variances = [], []
    for step in range(int((time + 50) / leak)):
        pair = weights @ np.stack([np.tanh(x), v / np.cosh(x) ** 2], axis=1)
        kick = np.sqrt(leak * noise) * rng.standard_normal(n)
        x = (1 - leak) * x + leak * pair[:, 0] + kick
        v = (1 - leak) * v + leak * pair[:, 1]
        size = np.linalg.norm(v)
        v /= size
        if step * leak >= 50:
            logs.append(np.log(size) / leak)
            variances.append(np.mean(x**2))
    blocks = np.array([b.mean() for b in np.array_split(logs, 20)])
    return blocks.mean(), blocks.std(ddof=1) / np.sqrt(20), np.mean(variances)


@pytest.mark.parametrize(
    ("gain", "leak", "noise"),
    [(3.0, 0.3, 0.0), (5.0, 0.7, 0.0), (2.0, 0.5, 0.5), (1.5, 0.95, 0.5), (1.5, 1.0, 0.5)],
)
def test_simulated_networks(gain, leak, noise):
    rate, error, variance = simulate(gain, leak, noise)
    # four standard errors, and O(1/N) of a finite network, larger where C decays slowly
    assert abs(rate - exponent(gain, leak, noise)) <= 4 * error + 0.012
    expected = float(rn.stationary_variance(gain, leak=leak, noise_variance=noise))
    assert abs(variance / expected - 1) <= 0.05


@pytest.mark.parametrize("leak", [0.0, 0.4])
def test_onset_of_leaky_networks(leak):
    """λ₁ → (g - 1)²/2: C decays slowly, so that every leak below 1 acts like the flow."""
    assert abs(exponent(1.01, leak) / (0.01**2 / 2) - 1) <= 0.05
    ratios = [exponent(1 + e, leak) / (e**2 / 2) for e in (0.02, 0.01)]
    assert abs(2 * ratios[1] - ratios[0] - 1) <= 0.005  # linear extrapolation to g = 1
    assert abs(exponent(1.05, leak) / (0.05**2 / 2) - 0.850) <= 0.001


def test_onset_of_the_map():
    ratios = [exponent(1 + e) / (2 / 3 * e**2) for e in (0.01, 0.02)]
    assert abs(ratios[0] - 0.968) <= 5e-4
    assert abs(2 * ratios[0] - ratios[1] - 1) <= 0.005


@pytest.mark.parametrize(("gain", "noise"), [(3.0, 0.0), (2.0, 0.5)])
def test_both_limits_are_continuous(gain, noise):
    """λ₁ - λ₁(leak 0) falls like δ (Richardson: 2 f(δ/2) - f(δ) leaves O(δ²)), and at 1."""
    small = [exponent(gain, leak, noise) for leak in (2e-3, 1e-3)]
    assert abs(2 * small[1] - small[0] - exponent(gain, 0.0, noise)) <= 1e-6
    near = [exponent(gain, 1 - e, noise) for e in (2e-4, 1e-4)]
    assert abs(2 * near[1] - near[0] - exponent(gain, 1.0, noise)) <= 1e-6


def test_own_lattice_and_interpolated_ones_meet(monkeypatch):
    """A leak on its own lattice, solved again between four finer ones."""
    from gradhorizon.theory import _stationary

    own = exponent(2.0, 0.6, 0.3)
    monkeypatch.setattr(_stationary, "_COARSEST", 0.9)
    jax.clear_caches()
    coarse = float(rn.largest_exponent(2.0, leak=0.6, noise_variance=0.3))
    jax.clear_caches()
    assert own != coarse
    assert abs(own - coarse) <= 1e-6


@pytest.mark.parametrize("leak", [0.0, 0.3, 1.0])
def test_silent_network(leak):
    """Below g = 1 without noise x = 0 attracts: ln(1 - δ + δ g)/δ."""
    for gain in (0.5, 1.0):
        exact = np.log(1 - leak + leak * gain) / leak if leak else gain - 1
        assert abs(exponent(gain, leak) - exact) <= 1e-12
        assert float(rn.stationary_variance(gain, leak=leak)) <= 1e-15


@pytest.mark.parametrize(
    ("noise", "gain"),
    [(0.01, 1.193400725), (0.05, 1.327009661), (0.5, 1.686169464), (2.0, 2.065525625)],
)
def test_critical_gain_of_the_map(noise, gain):
    """Molgedey, Schuchhardt & Schuster 1992, by quadrature."""
    assert abs(float(rn.critical_gain(noise)) - gain) <= 1e-8


@pytest.mark.parametrize("leak", [0.0, 0.6])
def test_critical_gain_of_leaky_networks(leak):
    gain = float(rn.critical_gain(0.3, leak=leak))
    assert abs(exponent(gain, leak, 0.3)) <= 1e-7
    assert exponent(1.02 * gain, leak, 0.3) > 0 > exponent(0.98 * gain, leak, 0.3)
    assert float(rn.critical_gain(0.0, leak=leak)) == 1.0


@pytest.mark.slow
def test_gradient_of_the_critical_gain():
    """dg_c/ds² = -(∂λ₁/∂s²)/(∂λ₁/∂g), where the chain of Newton's method is singular."""
    leak, h = 0.6, 1e-3
    gain, slope = jax.jit(jax.value_and_grad(lambda s: rn.critical_gain(s, leak=leak)))(0.3)
    gain = float(gain)
    in_gain = exponent(gain + h, leak, 0.3) - exponent(gain - h, leak, 0.3)
    in_noise = exponent(gain, leak, 0.3 + h) - exponent(gain, leak, 0.3 - h)
    assert abs(float(slope) / (-in_noise / in_gain) - 1) <= 1e-4


def test_a_known_leak_of_one_takes_the_short_way_under_jit():
    """Where ReLU is allowed too, and the answer is the quadrature's to the last digit."""
    ours = jax.jit(lambda g: rn.largest_exponent(g, activation="relu"))(1.2)
    assert float(ours) == float(rn.largest_exponent(1.2, activation="relu"))


def test_gradients_against_differences():
    f = lambda g, d, s: rn.largest_exponent(g, leak=d, noise_variance=s)  # noqa: E731
    gradient = jax.jit(jax.grad(f, argnums=(0, 1, 2)))
    h = 1e-4
    for point in ((2.0, 0.02, 0.5), (2.0, 0.7, 0.5)):
        for which, ours in enumerate(gradient(*point)):
            ends = [[v + s * h * (i == which) for i, v in enumerate(point)] for s in (1, -1)]
            central = (exponent(*ends[0]) - exponent(*ends[1])) / (2 * h)
            assert abs(float(ours) - central) <= 1e-5 * max(abs(central), 1)


def test_vmap_over_gain_and_leak():
    """A traced leak of 1 takes the lattice, whose coupling is then 0, to the map's exponent."""
    gains, leaks = jnp.array([0.5, 1.5, 20.0]), jnp.array([0.0, 1.0, 0.3])
    together = jax.jit(jax.vmap(lambda g, d: rn.largest_exponent(g, leak=d)))(gains, leaks)
    alone = [exponent(float(g), float(d)) for g, d in zip(gains, leaks, strict=True)]
    assert np.max(np.abs(np.asarray(together) - alone)) <= 1e-8


def test_float32():
    for gain, leak, noise in ((1.5, 0.0, 0.0), (20.0, 0.3, 0.0), (2.0, 1.0, 0.5), (0.8, 0.5, 0.0)):
        ours = rn.largest_exponent(jnp.float32(gain), leak=leak, noise_variance=noise)
        assert ours.dtype == jnp.float32
        assert abs(float(ours) - exponent(gain, leak, noise)) <= 1e-4
    assert rn.critical_gain(jnp.float32(0.5)).dtype == jnp.float32


def test_any_odd_function_goes():
    named = exponent(2.0, 0.5)
    assert abs(float(rn.largest_exponent(2.0, leak=0.5, activation=jnp.tanh)) - named) <= 1e-10
    # erf(√π x/2) has slope 1 at 0 and is steeper than tanh further out: less damping, more chaos
    steep = lambda x: jax.scipy.special.erf(np.sqrt(np.pi).item() / 2 * x)  # noqa: E731
    assert abs(float(rn.critical_gain(0.0, activation=steep)) - 1) <= 1e-12
    assert abs(float(rn.critical_gain(0.0, activation="erf")) - np.sqrt(np.pi) / 2) <= 1e-12


def test_mean_exponent():
    """ln|det J|/N + ⟨ln φ'⟩ of a simulated network; E ln φ' by adaptive quadrature."""
    rng = np.random.default_rng(5)
    n, gain = 600, 3.0
    weights = rng.standard_normal((n, n)) * gain / np.sqrt(n)
    x, stretch = rng.standard_normal(n), []
    for step in range(400):
        x = weights @ np.tanh(x)
        if step >= 100:
            stretch.append(np.mean(-2 * np.log(np.cosh(x))))
    rate = np.linalg.slogdet(weights)[1] / n + np.mean(stretch)
    # ⟨ln φ'⟩ follows the variance of x, whose relative deviation is of order 1/√N
    assert abs(rate - float(rn.mean_exponent(gain))) <= 0.04
    q = float(rn.stationary_variance(2.0, noise_variance=0.5))
    mean = integrate.quad(
        lambda z: -2 * np.log(np.cosh(np.sqrt(q) * z)) * stats.norm.pdf(z), -14, 14, limit=300
    )[0]
    ours = float(rn.mean_exponent(2.0, noise_variance=0.5))
    assert abs(ours - (np.log(2) - 0.5 + mean)) <= 1e-10


def test_exponents_of_the_silent_network():
    """F(s): the share of the disc |μ| < g with ln|1 - δ + δμ|/δ ≤ s, by counting a fine grid."""
    side = (np.arange(1200) + 0.5) / 600 - 1
    disc = 0.8 * (side[:, None] + 1j * side[None])
    mu = jnp.asarray(disc[np.abs(disc) < 0.8])
    for leak in (0.0, 0.3, 0.8, 1.0):
        rates = np.asarray(rn.silent_exponents(mu, leak=leak))
        exact = (
            mu.real - 1 if leak == 0 else np.log(np.abs(1 - leak + leak * np.asarray(mu))) / leak
        )
        # ln|z| of z = O(1) with rounding error eps, where |z| is down to 1e-3
        assert np.max(np.abs(rates - exact)) <= 1e-10
        for at in (-1.9, -1.3, -0.7, -0.3, 0.1):
            ours = float(rn.silent_exponent_cdf(at, 0.8, leak=leak))
            assert abs(ours - np.mean(rates <= at)) <= 2e-3
    for at in (-1.0, -0.4):  # e^{2s}/g²
        assert abs(float(rn.silent_exponent_cdf(at, 0.8)) - np.exp(2 * at) / 0.64) <= 1e-14
    assert float(rn.silent_exponent_cdf(-5.0, 0.8, leak=0.0)) == 0
    assert float(rn.silent_exponent_cdf(0.0, 0.8, leak=0.0)) == 1


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`leak` must lie in \[0, 1\]. Received 1.5"):
        rn.largest_exponent(2.0, leak=1.5)
    with pytest.raises(ValueError, match="`noise_variance` must be at least 0. Received -1"):
        rn.largest_exponent(2.0, noise_variance=-1.0)
    with pytest.raises(ValueError, match="`gain` must be positive"):
        rn.stationary_variance(0.0)
    for activation in ("relu", "sigmoid", "identity", "hard_tanh", jnp.sin):
        with pytest.raises(ValueError, match="`activation` must be odd, smooth and saturated"):
            rn.largest_exponent(2.0, leak=0.5, activation=activation)
    assert np.isfinite(float(rn.largest_exponent(1.2, activation="relu")))
