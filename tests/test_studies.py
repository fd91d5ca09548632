"""Every number that a study claims holds at small settings; the gallery is what the files say."""

import json
from pathlib import Path

import pytest

from gradhorizon import studies
from gradhorizon.studies._gallery import gallery
from gradhorizon.studies._study import Check, run

FIGURES = Path(__file__).parents[1] / "figures"


@pytest.mark.parametrize("name", studies.NAMES)
def test_study_passes_its_checks_and_draws(name, tmp_path):
    outcome = run(studies.load(name), tmp_path, small=True)
    failed = [check for check in outcome.checks if not check.passed]
    assert not failed
    assert len(outcome.checks) >= 8
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert set(record["checks"][0]) >= {"name", "value", "expected", "tolerance", "passed"}
    assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".pdf", ".png"]


@pytest.mark.parametrize("name", studies.NAMES)
def test_committed_figures_passed_at_full_settings(name):
    record = json.loads((FIGURES / f"{name}.json").read_text())
    assert all(check["passed"] for check in record["checks"])
    settings = vars(studies.load(name).Settings())
    assert record["settings"] == settings


def test_committed_gallery_is_generated_from_the_records():
    assert (FIGURES / "README.md").read_text() == gallery(FIGURES, studies.CHAPTERS)


def test_a_check_outside_its_tolerance_fails():
    assert Check("a", 1.0, 1.1, 0.2).passed
    assert not Check("a", 1.0, 1.3, 0.2).passed
    assert not Check("a", float("nan"), 1.0, 0.2).passed


def test_unknown_study_is_refused():
    with pytest.raises(ValueError, match="`name` must be one of depth, repetition"):
        studies.load("dept")
