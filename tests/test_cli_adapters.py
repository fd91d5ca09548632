"""`gradhorizon diagnose` on cells of other libraries: what it loads, and what it says about it."""

import json

import numpy as np
import pytest

from gradhorizon.cli import main

NETWORKS = """
import equinox as eqx, flax.linen as nn, haiku as hk, jax, jax.numpy as jnp
from flax import nnx

key = jax.random.key(0)
linen = nn.GRUCell(3)
trained = (nn.GRUCell(3), nn.GRUCell(3).init(key, jnp.zeros(3, "float32"), jnp.zeros(2, "float32")))
modern = nnx.LSTMCell(2, 3, rngs=nnx.Rngs(0))
equinox = eqx.nn.GRUCell(2, 3, key=key)
layers = [equinox, eqx.nn.LSTMCell(3, 2, key=key)]

def core():
    return hk.GRU(3)

transformed = (hk.transform(lambda x, state: hk.GRU(3)(x, state)), None, jnp.zeros(3))

class Own(eqx.Module):
    W: jax.Array
    def __call__(self, x, h):
        return jnp.tanh(self.W @ h + x.sum())

own = (Own(0.5 * jnp.eye(3)), jnp.zeros(3))
shy = Own(0.5 * jnp.eye(3))

def make():
    return modern

both = nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.GRUCell(3)))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(NETWORKS)
    np.savez(tmp_path / "data.npz", xs=np.random.default_rng(0).normal(size=(8, 2)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *words):
    with pytest.raises(SystemExit) as done:
        main(["diagnose", *words])
    out, err = capsys.readouterr()
    return done.value.code, out, err


@pytest.mark.parametrize(
    ("name", "what", "state", "weights"),
    [
        ("linen", "GRUCell of flax.linen", "h float64[3]",
         "57, freshly drawn with key 0, not trained"),
        ("trained", "GRUCell of flax.linen", "h float64[3]", "57, as the file gives them"),
        ("modern", "LSTMCell of flax.nnx", "h[0] float64[3], h[1] float64[3]", "72, as"),
        ("make", "LSTMCell of flax.nnx", "h[0] float64[3], h[1] float64[3]", "72, as"),
        ("equinox", "GRUCell of equinox", "h float64[3]", "57, as"),
        ("layers", "list of equinox", "h[0] float64[3], h[1][0] float64[2]", "105, as"),
        ("core", "the function core", "h float64[3]", "54, freshly drawn"),
        ("transformed", "Transformed of haiku", "h float64[3]", "54, freshly drawn"),
        ("own", "Own of equinox", "h float64[3]", "9, as"),
    ],
)  # fmt: skip
def test_every_library_is_loaded_and_explained(folder, capsys, name, what, state, weights):
    from gradhorizon.cli._load import load, unpack

    found, defined, path, _ = load(f"net.py:{name}")
    network = unpack(found, name, defined, np.load(folder / "data.npz")["xs"])
    first, second, third = network.lines(name, path)
    assert first == f"loaded {name} from net.py: {what}"
    assert second.startswith(f"state: {state}")
    assert third.startswith(f"parameters: {weights}")


def test_a_whole_run(folder, capsys):
    words = ("net.py:equinox", "--inputs", "data.npz", "--json", "out.json", "--lag", "5")
    code, out, err = run(capsys, *words)
    assert code == 0, err
    assert " at lag 5: the gradient " in out.splitlines()[0]
    assert err.startswith("loaded equinox from net.py: GRUCell of equinox\nstate: h float64[3]\n")
    assert json.loads((folder / "out.json").read_text())["regime"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["net.py:linen"], "`inputs` must be given for this cell. Received None. Pass --inputs"),
        (["net.py:both", "--inputs", "data.npz"], "`cell` must advance a state by one input"),
        (["net.py:shy", "--inputs", "data.npz"], "`h0` must be given for Own of equinox"),
        (["net.py:modern", "--inputs", "wide.npz"], "`cell` must accept a state"),
    ],
)
def test_bad_input_is_one_clear_line_and_code_2(folder, capsys, words, message):
    np.savez(folder / "wide.npz", np.ones((8, 5)))
    code, _, err = run(capsys, *words, "--json", "out.json")
    assert code == 2
    assert message in err
    assert not (folder / "out.json").exists()
