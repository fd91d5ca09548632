"""Gated mean field against published points, independent quadrature and networks drawn afresh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

from gradhorizon.theory import gated_mean_field as gated
from gradhorizon.theory import mean_field as mf

GRID = np.linspace(-12, 12, 4001)
WEIGHTS = stats.norm.pdf(GRID) * (GRID[1] - GRID[0])


def sigma(a):
    return special.expit(a)


def mean(f, q, bias=0.0):
    """Compute E f(√q z + b) on this file's own grid."""
    return np.sum(WEIGHTS * f(np.sqrt(q) * GRID + bias))


def gate(q, bias):
    """Give E u², E (1-u)² and E u'² of a gate."""
    slope = mean(lambda a: (sigma(a) * sigma(-a)) ** 2, q, bias)
    return mean(lambda a: sigma(a) ** 2, q, bias), mean(lambda a: sigma(-a) ** 2, q, bias), slope


def test_vanilla_recurrence_through_the_additive_functions():
    """σ_w = 1, σ_v = .025, R = .46: q = .0121930035, χ = .9766013215, ξ = 42.2355."""
    q = mf.length_fixed_point("tanh", 1.0, 0.025**2 * 0.46)
    chi = mf.susceptibility("tanh", 1.0, q)
    assert abs(float(q) - 0.0121930035) <= 1e-9
    assert abs(float(chi) - 0.9766013215) <= 1e-9
    assert abs(-1 / np.log(float(chi)) - 42.2355) <= 1e-4


def test_minimal_rnn_at_the_published_point():
    """σ_w = 6.88, σ_v = 1.39, R = .46 (Chen et al. 2018): Q = .317897, q = 15.936223."""
    ours = gated.minimal_rnn(6.88**2, 1.39**2, 0.46)
    assert abs(float(ours.state_moment) - 0.317897) <= 5e-7
    assert abs(float(ours.preactivation_variance) - 15.936223) <= 5e-7
    assert abs(float(ours.chi) - 0.998780) <= 5e-7
    assert abs(float(ours.memory_scale) * np.log(float(ours.chi)) + 1) <= 1e-12


@pytest.mark.parametrize(
    ("sigma_w", "bias", "excess"),
    [(3, -4, -0.919), (3, 0, -0.463), (3, 4, -0.049), (3, 6, -0.0076),
     (6.88, -2, -0.216), (6.88, 0, -0.001), (6.88, 2, 0.121), (6.88, 6, -0.007)],
)  # fmt: skip
def test_minimal_rnn_over_the_bias(sigma_w, bias, excess):
    """The broad band near χ = 1; the equations once more on another grid."""
    w2, v2, R = float(sigma_w) ** 2, 1.39**2, 0.46
    ours = gated.minimal_rnn(w2, v2, R, bias=float(bias))
    digits = 4 if abs(excess) < 0.01 and excess not in (-0.001, -0.007) else 3
    assert abs(float(ours.chi) - 1 - excess) <= 0.51 * 10.0**-digits
    Q, q = float(ours.state_moment), float(ours.preactivation_variance)
    keep, take, slope = gate(q, bias)
    assert abs(q - w2 * Q - v2 * R) <= 1e-11 * q
    assert abs(Q * keep + R * take - Q) <= 1e-11
    assert abs(keep + w2 * (Q + R) * slope - float(ours.chi)) <= 1e-10
    # the shortcut Q = R E u²/(1 - E u²) is right only without bias
    shortcut = R * keep / (1 - keep)
    assert (abs(shortcut - Q) <= 1e-10) == (bias == 0)


def test_minimal_rnn_against_fresh_networks():
    """N = 800, weights drawn at every step, 20 steps: Q to 2 %, ‖J‖_F²/N to 1 %."""
    rng = np.random.default_rng(0)
    n, sw, sv, R, bias = 800, 3.0, 1.39, 0.46, 0.5
    h, moments, growths = np.zeros(n), [], []
    for step in range(40):
        W = sw * rng.normal(size=(n, n)) / np.sqrt(n)
        z = np.sqrt(R) * rng.normal(size=n)
        u = sigma(W @ h + sv * np.sqrt(R) * rng.normal(size=n) + bias)
        if step >= 20:
            J = np.diag(u) + ((h - z) * u * (1 - u))[:, None] * W
            growths.append(np.sum(J**2) / n)
        h = u * h + (1 - u) * z
        if step >= 20:
            moments.append(np.mean(h**2))
    ours = gated.minimal_rnn(sw**2, sv**2, R, bias=bias)
    assert abs(np.mean(moments) / float(ours.state_moment) - 1) <= 0.02
    assert abs(np.mean(growths) / float(ours.chi) - 1) <= 0.01


@pytest.mark.parametrize(
    ("gains", "noise", "bias", "chi"),
    [((1, 1, 1), 0.5, 0, 0.331857), ((2, 2, 3), 1.0, 0, 0.802136), ((5, 1, 2), 0.3, 1, 0.719718)],
)
def test_gru_of_the_papers(gains, noise, bias, chi):
    """(σ_u, σ_r, σ_c; noise; μ_u): printed χ of the reset before the matrix."""
    update, reset, candidate = (float(g) ** 2 for g in gains)
    w2 = jnp.array([reset, update, candidate])
    ours = gated.gru(w2, noise**2, bias=jnp.array([0.0, float(bias), 0.0]), reset="before")
    assert abs(float(ours.chi) - chi) <= 5e-7
    Q, (qr, qz, qn) = float(ours.state_moment), np.asarray(ours.preactivation_variance)
    assert abs(qr - reset * Q - noise**2) <= 1e-12
    assert abs(qz - update * Q - noise**2) <= 1e-12
    assert abs(qn - candidate * Q * gate(qr, 0)[0] - noise**2) <= 1e-11


CASES = [
    ((1.0, 0.8, 2.0), (0.3, 0.5, 0.2), (0.4, -0.5, 0.7)),
    ((4.0, 9.0, 6.0), (0.5, 0.2, 0.1), (0.0, 1.0, 0.0)),
]


@pytest.mark.parametrize("reset", ["before", "after"])
@pytest.mark.parametrize(("w2", "v2", "bias"), CASES)
def test_gru_equations_by_gauss_hermite(w2, v2, bias, reset):
    """Q and χ from triple sums over the reset's gate, W_n h and the input, 64³ nodes."""
    ours = gated.gru(jnp.array(w2), jnp.array(v2), bias=jnp.array(bias), reset=reset)
    Q = float(ours.state_moment)
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    weights = weights / weights.sum()
    z, y, x = np.meshgrid(nodes, nodes, nodes, indexing="ij", sparse=True)
    law = weights[:, None, None] * weights[None, :, None] * weights[None, None, :]
    r = sigma(np.sqrt(w2[0] * Q + v2[0]) * z + bias[0])
    if reset == "before":
        keep, _, slope = gate(w2[0] * Q + v2[0], bias[0])
        state, by_reset = w2[2] * Q * keep, w2[2] * Q * slope
        n = np.tanh(np.sqrt(state) * y + np.sqrt(v2[2]) * x + bias[2])
        through = w2[2] * keep + w2[0] * by_reset
    else:
        state = np.sqrt(w2[2] * Q) * y
        n = np.tanh(r * state + np.sqrt(v2[2]) * x + bias[2])
        through = w2[2] * r**2 + w2[0] * (r * (1 - r) * state) ** 2
    C, m = np.sum(law * n**2), np.sum(law * n)
    steep = np.sum(law * (1 - n**2) ** 2 * through)
    keep, take, slope = gate(w2[1] * Q + v2[1], bias[1])
    both = (1 - keep - take) / 2  # E z (1 - z)
    assert abs(Q * keep + 2 * m**2 * both + C * take - Q) <= 1e-7
    chi = keep + w2[1] * (Q + C - 2 * m**2) * slope + take * steep
    assert abs(chi - float(ours.chi)) <= 1e-6


@pytest.mark.parametrize("reset", ["before", "after"])
def test_gru_against_fresh_networks(reset):
    """N = 600, biases in all gates, weights drawn at every step: 2.5 % in Q and χ."""
    w2, v2, bias = np.array([9.0, 4.0, 16.0]), 0.09, np.array([-1.0, 0.5, 0.7])
    rng, n = np.random.default_rng(1), 600
    h, moments, growths = np.zeros(n), [], []
    for step in range(30):
        W = rng.normal(size=(3, n, n)) * np.sqrt(w2 / n)[:, None, None]
        x = np.sqrt(v2) * rng.normal(size=(3, n)) + bias[:, None]
        r, z = sigma(W[0] @ h + x[0]), sigma(W[1] @ h + x[1])
        if reset == "before":
            new = np.tanh(W[2] @ (r * h) + x[2])
            inner = W[2] * r + (W[2] * (h * r * (1 - r))) @ W[0] if step >= 15 else None
        else:
            y = W[2] @ h
            new = np.tanh(r * y + x[2])
            inner = r[:, None] * W[2] + (y * r * (1 - r))[:, None] * W[0]
        if step >= 15:
            J = np.diag(z) + ((h - new) * z * (1 - z))[:, None] * W[1]
            growths.append(np.sum((J + ((1 - z) * (1 - new**2))[:, None] * inner) ** 2) / n)
        h = (1 - z) * new + z * h
        if step >= 15:
            moments.append(np.mean(h**2))
    ours = gated.gru(jnp.asarray(w2), v2, bias=jnp.asarray(bias), reset=reset)
    assert abs(np.mean(moments) / float(ours.state_moment) - 1) <= 0.025
    assert abs(np.mean(growths) / float(ours.chi) - 1) <= 0.025


def test_largest_of_several_sizes():
    """Without input Q = 0 is always fixed; from Q = 1 the map comes down to another one or to 0."""
    for candidate, update in ((9.0, 0.0), (11.5, 100.0), (30.0, 1.0), (2.0, 1.0)):
        w2 = jnp.array([0.0, update, candidate])
        ours = float(gated.gru(w2, 0.0, reset="before").state_moment)
        Q = 1.0
        for _ in range(500):
            keep, take, _ = gate(update * Q, 0.0)
            Q = Q * keep + take * mean(lambda a: np.tanh(a) ** 2, candidate * Q / 4)
        assert abs(ours - Q) <= 1e-8
    # Q = 0 attracts at w_n E r² E(1-z)²/(1 - E z²) = 11.5/4/3 < 1, and yet a larger size exists
    assert float(gated.gru(jnp.array([0.0, 100.0, 11.5]), 0.0, reset="before").state_moment) > 0.1
    assert float(gated.gru(2.0, 0.0, reset="after").state_moment) == 0.0


W2, V2, BIAS = np.array([9.0, 9.0, 25.0, 9.0]), 0.1, (1.0, 2.0, 1.0)


@pytest.fixture(scope="module")
def memory():
    """Compute one LSTM point for several tests."""
    i, f, o = BIAS
    return gated.lstm(jnp.asarray(W2), V2, input_bias=i, forget_bias=f, output_bias=o)


def test_lstm_memory_in_closed_form(memory):
    """E c² = E i² E g²/(1 - E f²) and the entries of the paths that need no law of c."""
    q = np.asarray(memory.preactivation_variance)
    assert np.max(np.abs(q - W2 * float(memory.state_moment) - V2)) <= 1e-12
    (i2, _, islope), (f2, _, fslope) = gate(q[0], BIAS[0]), gate(q[1], BIAS[1])
    g2 = mean(lambda a: np.tanh(a) ** 2, q[2])
    gslope = mean(lambda a: np.cosh(a) ** -4.0, q[2])
    c2 = i2 * g2 / (1 - f2)
    assert abs(float(memory.memory_moment) - c2) <= 1e-11
    assert abs(float(memory.paths[0, 0]) - f2) <= 1e-12
    into = W2[1] * fslope * c2 + W2[0] * islope * g2 + W2[2] * i2 * gslope
    assert abs(float(memory.paths[0, 1]) - into) <= 1e-10


def test_lstm_law_and_growth_by_population(memory):
    """The affine recursion for 2e5 units: E h², paths, and χ, which differs from the paths'."""
    rng, units = np.random.default_rng(2), 200_000
    w, root = W2, np.sqrt(np.asarray(memory.preactivation_variance))
    c, dc, dh = np.zeros(units), np.ones(units), 1.0
    moments, growths, carried, read = [], [], [], []
    for step in range(60):
        i, f, o = (
            sigma(root[k] * rng.normal(size=units) + b)
            for k, b in zip((0, 1, 3), BIAS, strict=True)
        )
        g = np.tanh(root[2] * rng.normal(size=units))
        source = w[1] * (c * f * (1 - f)) ** 2 + w[0] * (g * i * (1 - i)) ** 2
        source = source + w[2] * (i * (1 - g**2)) ** 2
        c, before = f * c + i * g, np.mean(dc) + dh
        dc = f**2 * dc + source * dh
        gain = o**2 * np.cosh(c) ** -4.0
        own = w[3] * np.mean((o * (1 - o)) ** 2) * np.mean(np.tanh(c) ** 2)
        dh = np.mean(gain * dc) + own * dh
        if step >= 25:
            moments.append(np.mean((o * np.tanh(c)) ** 2))
            carried.append(np.mean(gain * f**2))
            read.append(np.mean(gain * source) + own)
            growths.append((np.mean(dc) + dh) / before)
        total = np.mean(dc) + dh
        dc, dh = dc / total, dh / total
    assert abs(np.mean(moments) / float(memory.state_moment) - 1) <= 1e-3
    assert abs(np.mean(carried) / float(memory.paths[1, 0]) - 1) <= 1e-3
    assert abs(np.mean(read) / float(memory.paths[1, 1]) - 1) <= 1.5e-3
    assert abs(np.mean(growths) / float(memory.chi) - 1) <= 1e-3
    independent = np.linalg.eigvals(np.asarray(memory.paths)).real.max()
    assert abs(np.mean(growths) / independent - 1) >= 2e-3  # δc² knows c


def test_lstm_against_fresh_networks(memory):
    """N = 400, weights drawn at every step, 40 steps: 3 % in moments and path entries."""
    rng, n = np.random.default_rng(3), 400
    c, h, seen = np.zeros(n), np.zeros(n), []
    bias = np.array([BIAS[0], BIAS[1], 0.0, BIAS[2]])
    for step in range(60):
        W = rng.normal(size=(4, n, n)) * np.sqrt(W2 / n)[:, None, None]
        a = W @ h + np.sqrt(V2) * rng.normal(size=(4, n)) + bias[:, None]
        i, f, g, o = sigma(a[0]), sigma(a[1]), np.tanh(a[2]), sigma(a[3])
        A = (c * f * (1 - f))[:, None] * W[1] + (g * i * (1 - i))[:, None] * W[0]
        A = A + (i * (1 - g**2))[:, None] * W[2]
        c = f * c + i * g
        tanh = np.tanh(c)
        through = o * (1 - tanh**2)
        H = (tanh * o * (1 - o))[:, None] * W[3] + through[:, None] * A
        h = o * tanh
        blocks = (np.mean(f**2), np.sum(A**2) / n, np.mean((through * f) ** 2), np.sum(H**2) / n)
        if step >= 20:
            seen.append((np.mean(h**2), np.mean(c**2), *blocks))
    ours = [memory.state_moment, memory.memory_moment, *np.asarray(memory.paths).ravel()]
    assert np.max(np.abs(np.mean(seen, axis=0) / np.asarray(ours) - 1)) <= 0.03


def test_lstm_with_constant_gates_is_a_geometric_series():
    """No recurrence, constant i, f, o: ln φ(s) = Σ ln E cos(s i g f^k), inverted by quadrature."""
    v2 = jnp.array([0.0, 0.0, 4.0, 0.0])
    ours = gated.lstm(0.0, v2, input_bias=0.5, forget_bias=0.3, output_bias=-0.2)
    f = sigma(0.3)
    g = np.tanh(2 * GRID)

    def characteristic(s):
        return np.prod([np.sum(WEIGHTS * np.cos(s * sigma(0.5) * f**k * g)) for k in range(80)])

    s, weights = np.polynomial.legendre.leggauss(120)
    s, weights = 13 * (s + 1), 13 * weights
    phi = np.array([characteristic(value) for value in s])
    sech2 = np.sum(weights * s / np.sinh(np.pi * s / 2) * phi)
    assert abs(float(ours.state_moment) - sigma(-0.2) ** 2 * (1 - sech2)) <= 1e-10
    sech4 = np.sum(weights * s * (s**2 + 4) / 6 / np.sinh(np.pi * s / 2) * phi)
    assert abs(float(ours.paths[1, 0]) - (sigma(-0.2) * f) ** 2 * sech4) <= 1e-10
    assert abs(float(ours.chi) - f**2) <= 1e-11
    assert np.array_equal(ours.paths[:, 1], np.zeros(2))


def test_gate_exponent():
    for variance, bias in ((0.7, 1.5), (9.0, -2.0)):
        f = lambda z: -np.logaddexp(0, -np.sqrt(variance) * z - bias) * stats.norm.pdf(z)  # noqa: B023, E731
        exact = integrate.quad(f, -14, 14, limit=400, epsabs=1e-13)[0]
        assert abs(float(gated.gate_exponent(variance, bias)) - exact) <= 1e-11
        assert float(gated.gate_exponent(variance, bias)) < np.log(gate(variance, bias)[0]) / 2


def test_gradients_follow_the_fixed_points():
    minimal = lambda w: gated.minimal_rnn(w, 1.9, 0.46, bias=0.3).chi  # noqa: E731
    reset = lambda w: gated.gru(w, 0.3, bias=0.2, reset="before").chi  # noqa: E731
    for f in (minimal, reset):
        central = (f(5.0 + 1e-4) - f(5.0 - 1e-4)) / 2e-4
        assert abs(float(jax.grad(f)(5.0)) / float(central) - 1) <= 1e-6
    chi = lambda b: gated.lstm(2.0, 0.5, forget_bias=b).chi  # noqa: E731
    both = jax.jit(jax.value_and_grad(chi))
    values, slopes = zip(*(both(b) for b in (1.0 - 1e-3, 1.0 + 1e-3)), strict=True)
    central = float(values[1] - values[0]) / 2e-3
    assert abs(float(slopes[0] + slopes[1]) / 2 / central - 1) <= 1e-6  # trapezoid rule, O(h²)


def test_jit_vmap_and_float32():
    weights = jnp.array([1.0, 20.0], jnp.float32)
    ours = jax.jit(jax.vmap(lambda w: gated.gru(w, 0.3)))(weights)
    assert ours.chi.shape == (2,)
    assert ours.preactivation_variance.shape == (2, 3)
    for k, w in enumerate((1.0, 20.0)):
        exact = gated.gru(w, 0.3)
        assert abs(float(ours.chi[k]) / float(exact.chi) - 1) <= 1e-4
    single = gated.minimal_rnn(jnp.float32(47.0), 1.9, 0.46)
    assert {leaf.dtype for leaf in jax.tree.leaves((ours, single))} == {jnp.dtype("float32")}
    exact = gated.minimal_rnn(47.0, 1.9, 0.46)
    assert abs(float(single.chi) / float(exact.chi) - 1) <= 1e-5


def test_lstm_in_float32():
    ours = gated.lstm(jnp.float32(2.0), 0.5)
    assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype("float32")}
    exact = gated.lstm(2.0, 0.5)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert np.max(np.abs(np.asarray(a) / np.asarray(b) - 1)) <= 1e-4


def test_bad_arguments():
    with pytest.raises(ValueError, match="`reset` must be 'after' or 'before'. Received 'inside'"):
        gated.gru(1.0, 1.0, reset="inside")
    with pytest.raises(ValueError, match="`bias` must be one number or 3, one for each gate"):
        gated.gru(1.0, 1.0, bias=jnp.zeros(4))
    with pytest.raises(ValueError, match="`input_variance` must be one number or 4"):
        gated.lstm(1.0, jnp.ones(3))
