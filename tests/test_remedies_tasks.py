"""Tasks: layouts as the papers define them, and the baselines that follow."""

import jax
import numpy as np
import pytest

import gradhorizon as gh


def test_adding_task_baseline():
    """Always answering 1 has mean squared error 1/6."""
    task = gh.tasks.adding(jax.random.key(0), 20_000, 12)
    square = (np.asarray(task.labels) - 1) ** 2
    assert abs(square.mean() - 1 / 6) <= 4 * square.std() / np.sqrt(20_000)
    markers = np.asarray(task.xs[:, :, 1])
    assert np.all(markers[:, :6].sum(axis=1) == 1)
    assert np.all(markers[:, 6:].sum(axis=1) == 1)


def test_copy_task_layout():
    task = gh.tasks.copy_memory(jax.random.key(0), 50, 30)
    inputs, targets = np.asarray(task.inputs), np.asarray(task.targets)
    assert inputs.shape == targets.shape == (50, 50)
    assert set(np.unique(inputs[:, :10])) == set(range(1, 9))
    assert np.all(inputs[:, 39] == 9)
    assert np.all(np.delete(inputs[:, 10:], 29, axis=1) == 0)
    assert np.all(targets[:, :40] == 0)
    assert np.array_equal(targets[:, 40:], inputs[:, :10])


def test_copy_task_baseline():
    """Symbols uniform on eight values: a constant answer costs 10 ln 8/(delay + 20)."""
    count = 4000
    task = gh.tasks.copy_memory(jax.random.key(1), count, 30)
    share = np.bincount(np.asarray(task.inputs[:, :10]).ravel(), minlength=9)[1:] / (10 * count)
    error = np.sqrt(1 / 8 * 7 / 8 / (10 * count))
    assert np.abs(share - 1 / 8).max() <= 4 * error


@pytest.mark.parametrize("length", [10, 57, 100])
def test_temporal_order_layout(length):
    """Two of A and B, in [T/10, T/5) and [2T/5, T/2), and the label is their order."""
    task = gh.tasks.temporal_order(jax.random.key(0), 4000, length)
    xs = np.asarray(task.xs)
    assert np.all(xs.sum(axis=2) == 1)
    symbols = xs.argmax(axis=2)
    rows, places = np.nonzero(symbols < 2)
    assert np.array_equal(rows, np.repeat(np.arange(4000), 2))
    first, second = places.reshape(-1, 2).T
    assert (first.min(), first.max()) == (length // 10, 2 * length // 10 - 1)
    assert (second.min(), second.max()) == (4 * length // 10, 5 * length // 10 - 1)
    rows = np.arange(4000)
    assert np.array_equal(task.labels, 2 * symbols[rows, first] + symbols[rows, second])
    share = np.bincount(np.asarray(task.labels)) / 4000
    assert np.abs(share - 1 / 4).max() <= 4 * np.sqrt(1 / 4 * 3 / 4 / 4000)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (gh.tasks.adding, (0, 10), "`count` must be at least 1"),
        (gh.tasks.adding, (2, 1), "`length` must be at least 2"),
        (gh.tasks.copy_memory, (2, 0), "`delay` must be at least 1"),
        (gh.tasks.temporal_order, (2, 9), "`length` must be at least 10"),
    ],
)
def test_sizes_out_of_range_are_refused(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(jax.random.key(0), *arguments)


def test_tasks_come_in_the_dtype_asked_for():
    key = jax.random.key(0)
    for make in (gh.tasks.adding, gh.tasks.temporal_order):
        assert make(key, 2, 20, dtype=np.float32).xs.dtype == np.float32
        assert make(key, 2, 20).xs.dtype == np.float64


def test_digits_are_the_uci_test_set():
    """1797 images; per-class counts as documented with the data set."""
    digits = gh.tasks.sequential_digits(dtype=np.float32)
    assert digits.xs.shape == (1797, 64, 1)
    assert digits.xs.dtype == np.float32
    counts = np.bincount(np.asarray(digits.labels))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    flat = np.asarray(digits.xs, np.float64)
    assert abs(flat.mean()) <= 1e-6
    assert abs(flat.std() - 1) <= 1e-6


def test_digits_are_read_row_by_row():
    """Intensities 0 … 16, and the frame's left and right columns are (nearly) always dark.

    In the data set's own table the columns of pixels 0, 8, 16, … hold almost only zeros.
    """
    xs = np.asarray(gh.tasks.sequential_digits().xs[:, :, 0])
    levels = np.unique(xs)
    assert len(levels) == 17
    pixels = np.rint((xs - levels[0]) / (levels[1] - levels[0]))
    assert (pixels.min(), pixels.max()) == (0, 16)
    by_column = pixels.reshape(-1, 8, 8).mean(axis=(0, 1))
    by_row = pixels.reshape(-1, 8, 8).mean(axis=(0, 2))
    assert by_column[0] < 0.05
    assert by_row[0] > 1
