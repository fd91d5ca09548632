"""The command line, run as a user runs it."""

import json
import os
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from gradhorizon import studies
from gradhorizon.cli.npz import read_npz

NETWORK = """
import jax, jax.numpy as jnp
import gradhorizon as gh

cell = gh.cells.gru(4, 2)

def plain():
    W = 0.5 * jnp.eye(3)
    return (lambda W, h, x: W @ h), W, jnp.ones(3)

with_inputs = (lambda p, h, x: jnp.tanh(p * h + x[0]), 0.5, jnp.zeros(2), jnp.ones((12, 1)))
nonsense = 3
"""


def run(*words, cwd):
    """Run the installed command in a folder."""
    env = {**os.environ, "COLUMNS": "100", "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, "-m", "gradhorizon", *words],
        capture_output=True, text=True, cwd=cwd, env=env, timeout=300, check=False,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(NETWORK)
    np.savez(tmp_path / "data.npz", xs=np.random.default_rng(0).normal(size=(20, 2)))
    return tmp_path


@pytest.mark.parametrize("words", [[], ["demo"], ["diagnose"], ["figures"], ["doctor"]])
def test_every_command_has_help(words, tmp_path):
    done = run(*words, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert "usage: gradhorizon" in done.stdout


def test_unknown_command_is_refused_with_code_2(tmp_path):
    assert run("diagnoze", cwd=tmp_path).returncode == 2


def test_diagnose_a_cell_with_inputs(folder):
    done = run("diagnose", "net.py:cell", "--inputs", "data.npz", "--json", "out.json",
               "--html", "out.html", "--lag", "15", cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert " at lag 15: the gradient " in done.stdout.splitlines()[0]
    assert "loaded cell from net.py: a gradhorizon cell" in done.stderr
    assert "state: h float64[4]\nparameters: 88, drawn with key 0\n" in done.stderr
    data = json.loads((folder / "out.json").read_text())
    assert data["regime"] in ("VANISHING", "BALANCED", "EXPLODING")
    assert (folder / "out.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize("name", ["plain", "with_inputs"])
def test_diagnose_tuples_and_functions(folder, name):
    words = ["--length", "30"] if name == "plain" else []
    done = run("diagnose", f"net.py:{name}", *words, cwd=folder)
    assert done.returncode == 0, done.stderr
    if name == "plain":
        assert "the gradient reaches back 9 steps" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["net.py"], "`target` must have the form FILE.py:NAME"),
        (["missing.py:cell"], "`target` must name an existing file"),
        (["net.py:celll"], "`target` must name something the file defines. Received celll"),
        (
            ["net.py:nonsense"],
            "`nonsense` must be a Cell, (step, params, h0[, xs]), a cell of",
        ),
        (["net.py:cell"], "`length` must be given when there is no `xs`"),
        (["net.py:cell", "--inputs", "no.npz"], "`inputs` must name an existing file"),
        (["net.py:cell", "--inputs", "net.py"], "`inputs` must be a complete .npz archive"),
        (["net.py:plain", "--length", "9", "--threshold", "2"], "`threshold` must lie strictly"),
    ],
)
def test_bad_input_is_one_clear_line_and_code_2(folder, words, message):
    before = set(folder.iterdir())
    done = run("diagnose", *words, "--json", "out.json", cwd=folder)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert set(folder.iterdir()) - before <= {folder / "__pycache__"}


def test_doctor_tests_the_device(tmp_path):
    done = run("doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("jaxlib", "device", "x64", "threads", "QR float32 graded", "LU float32 graded"):
        assert word in done.stdout


def test_qr_self_test_notices_a_bad_factorization(monkeypatch):
    from gradhorizon.cli import doctor

    def sloppy(matrix):
        q, r = np.linalg.qr(np.asarray(matrix))
        return doctor.jnp.asarray(q) * 1.01, doctor.jnp.asarray(np.triu(r))

    assert all(passed for _, passed in doctor.qr_self_test(np.dtype(np.float64)))
    monkeypatch.setattr(doctor.jax, "vmap", lambda f: lambda s: tuple(
        doctor.jnp.stack(part) for part in zip(*(f(m) for m in s), strict=True)))  # fmt: skip
    monkeypatch.setattr(doctor, "positive_qr", sloppy)
    assert not any(passed for _, passed in doctor.qr_self_test(np.dtype(np.float64)))


@pytest.mark.parametrize("broken", ["rows not put back", "one entry off"])
def test_lu_self_test_notices_a_bad_factorization(monkeypatch, broken):
    from gradhorizon.cli import doctor

    original = doctor.pivoted_lu

    def sloppy(matrix):
        lower, upper, rows = original(matrix)
        if broken == "one entry off":
            return lower, upper.at[..., 0, 0].multiply(1.01), rows
        places = doctor.jnp.broadcast_to(rows[..., None], lower.shape)
        return doctor.jnp.take_along_axis(lower, places, axis=-2), upper, rows

    assert all(passed for _, passed in doctor.lu_self_test(np.dtype(np.float64)))
    monkeypatch.setattr(doctor, "pivoted_lu", sloppy)
    assert not any(passed for _, passed in doctor.lu_self_test(np.dtype(np.float64)))


def test_figures_lists_and_refuses(tmp_path):
    done = run("figures", "--list", cwd=tmp_path)
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(studies.NAMES)
    done = run("figures", "dept", cwd=tmp_path)
    assert done.returncode == 2
    assert "`name` must be one of depth, repetition, " in done.stderr
    assert "Received 'dept'. Did you mean 'depth'?" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_demo_gives_five_verdicts(tmp_path):
    done = run("demo", "--quiet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "gradhorizon-demo"
    summary = json.loads((folder / "summary.json").read_text())
    assert [e["regime"] for e in summary.values()].count("VANISHING") >= 1
    assert summary["elman-0.5"]["regime"] == "VANISHING"
    assert summary["elman-4"]["regime"] == "EXPLODING"
    for entry in summary.values():
        assert entry["title"] in done.stdout
        assert len(entry["horizon_by_image"]) == 32
    pictures = sorted(p.name for p in folder.glob("*.png"))
    assert len(pictures) == 7
    for picture in folder.glob("*.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG"
    assert done.stdout.count(" at lag 64: the gradient ") == 6
    assert "Next: gradhorizon diagnose" in done.stdout
    assert list(tmp_path.iterdir()) == [folder]


def test_demo_never_writes_into_somebody_elses_folder(tmp_path):
    own = tmp_path / "gradhorizon-demo"
    own.mkdir()
    (own / "thesis.tex").write_text("precious")
    done = run("demo", "--quiet", cwd=tmp_path)
    assert done.returncode == 2
    assert "`output` must be empty or made by this command" in done.stderr
    assert [p.name for p in own.iterdir()] == ["thesis.tex"]


# --- hostile .npz files ------------------------------------------------------------------------


def write(path, name, data, **settings):
    with zipfile.ZipFile(path, "w", **settings) as archive:
        archive.writestr(name, data)


def header(shape, descr="<f8"):
    import io

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"shape": shape, "fortran_order": False, "descr": descr}
    )
    return stream.getvalue()


def test_hostile_archives_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    cases = {
        "plainly named": lambda: write(path, "../../x.npy", header((1,)) + bytes(8)),
        "plainly": lambda: write(path, "/etc/x.npy", header((1,)) + bytes(8)),
        "what its headers claim": lambda: write(path, "x.npy", header((65536, 65536)) + bytes(8)),
        "thousandfold": lambda: write(
            path, "x.npy", bytes(10**7), compression=zipfile.ZIP_DEFLATED
        ),
        "hold NumPy arrays": lambda: write(path, "x.npy", b"not an array at all"),
        "numbers only": lambda: np.savez(path, x=np.array([{"a": 1}], dtype=object)),
        "complete": lambda: path.write_bytes(b"PK\x03\x04 cut off"),
    }
    for words, make in cases.items():
        make()
        with pytest.raises(ValueError, match=words):
            read_npz(path)
    np.savez(path, x=np.zeros(100))
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[200] ^= 1
    path.write_bytes(bytes(damaged))
    with pytest.raises(ValueError, match="complete"):
        read_npz(path)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match="take at most 100 bytes"):
        read_npz(path, limit_bytes=100)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="regular file"):
        read_npz(tmp_path / "pipe.npz")
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    with pytest.raises(ValueError, match="regular file"):
        read_npz(link)


def lie_about_sizes(path, size):
    """Let the archive's directory claim another size of its only member."""
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    data[entry + 24 : entry + 28] = size.to_bytes(4, "little")
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        ("empty file", "complete"),
        ("ten bytes", "complete"),
        ("half a file", "complete"),
        ("all but one byte", "complete"),
        ("member twice", "each once"),
        ("structured numbers", "numbers only"),
        ("text", "numbers only"),
        ("endless header", "hold NumPy arrays"),
        ("deep header", "hold NumPy arrays"),
        ("negative shape", "what its headers claim|hold NumPy arrays"),
        ("huge shape, stored", "what its headers claim"),
        ("header longer than the member", "hold NumPy arrays"),
        ("directory claims more", "complete|claim"),
        ("directory claims less", "complete|claim"),
        ("encrypted", "stored or deflated"),
        ("bomb of bombs", "thousandfold"),
        ("many members", "at most 10000 arrays"),
        ("folder", "regular file"),
        ("device", "regular file"),
        ("dangling link", "regular file"),
    ],
)
def test_each_hostile_archive_costs_little(tmp_path, hostile, words):
    path = tmp_path / "bad.npz"
    np.savez(path, x=np.arange(1000.0))
    whole = path.read_bytes()
    if hostile in ("empty file", "ten bytes", "half a file", "all but one byte"):
        length = {"e": 0, "t": 10, "h": len(whole) // 2, "a": len(whole) - 1}[hostile[0]]
        path.write_bytes(whole[:length])
    elif hostile == "member twice":
        with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            archive.writestr("x.npy", header((1,)) + bytes(8))
            archive.writestr("x.npy", header((1,)) + bytes(8))
    elif hostile == "structured numbers":
        np.savez(path, x=np.zeros(3, [("a", float), ("b", int)]))
    elif hostile == "text":
        np.savez(path, x=np.array(["a", "b"]))
    elif hostile == "endless header":
        write(path, "x.npy", b"\x93NUMPY\x02\x00" + (2**31).to_bytes(4, "little") + b" " * 100)
    elif hostile == "deep header":
        text = b"(" * 9000
        write(path, "x.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    elif hostile == "negative shape":
        write(path, "x.npy", header((-1, -1)) + bytes(8))
    elif hostile == "huge shape, stored":
        write(path, "x.npy", header((2**40, 2**40)) + bytes(8))
    elif hostile == "header longer than the member":
        write(path, "x.npy", header((1,))[:40])
    elif hostile.startswith("directory claims"):
        lie_about_sizes(path, 8128 + 100 * (1 if hostile.endswith("more") else -1))
    elif hostile == "encrypted":
        data = bytearray(whole)
        data[data.index(b"PK\x01\x02") + 8] |= 1
        path.write_bytes(bytes(data))
    elif hostile == "bomb of bombs":
        write(path, "x.npy", header((10**9,), "|u1") + bytes(10**8), compression=8)
    elif hostile == "many members":
        with zipfile.ZipFile(path, "w") as archive:
            for i in range(10_001):
                archive.writestr(f"x{i}.npy", b"")
    elif hostile == "folder":
        path.unlink()
        path.mkdir()
    elif hostile == "device":
        path = Path("/dev/zero")
    elif hostile == "dangling link":
        path.unlink()
        path.symlink_to(tmp_path / "nowhere")
    tracemalloc.start()
    with pytest.raises(ValueError, match=words) as caught:
        read_npz(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    assert str(caught.value).startswith("`inputs` must ")
    assert {p.name for p in tmp_path.iterdir()} <= {"bad.npz"}


def test_a_pipe_does_not_block_the_command(folder):
    os.mkfifo(folder / "pipe.npz")
    done = run("diagnose", "net.py:cell", "--inputs", "pipe.npz", cwd=folder)
    assert done.returncode == 2
    assert "`inputs` must be a regular file" in done.stderr


def test_sound_archives_are_read(tmp_path):
    path = Path(tmp_path / "good.npz")
    arrays = {
        "xs": np.arange(12.0).reshape(3, 4), "labels": np.array([1, 2, 3]),
        "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "none": np.zeros((0, 4)),
        "one": np.array(2.5), "flags": np.array([True, False]), "z": np.array([1 + 2j]),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(path, **arrays)
        read = read_npz(path)
        assert set(read) == set(arrays)
        for name, array in arrays.items():
            assert np.array_equal(read[name], array)
            assert read[name].dtype == array.dtype
