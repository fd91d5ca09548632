"""Running many studies: progress survives an interruption, pages say what the records say."""

import dataclasses
import json
from types import ModuleType

import jax
import matplotlib.pyplot as plt
import pytest

from gradhorizon import studies
from gradhorizon.cli import Figures
from gradhorizon.cli.figures import run_figures
from gradhorizon.studies._gallery import gallery
from gradhorizon.studies._study import Check


@dataclasses.dataclass(frozen=True)
class Settings:
    size: int = 2


class Bench:
    """Two tiny studies whose computations are counted; the second may be interrupted."""

    def __init__(self):
        self.computed = []
        self.interrupt = False
        self.value = 1.0

    def load(self, name):
        module = ModuleType(f"gradhorizon.studies.{name}")

        def compute(settings):
            if name == "second" and self.interrupt:
                raise KeyboardInterrupt
            self.computed.append((name, settings.size))
            return self.value

        module.TITLE, module.QUESTION, module.SOURCE = f"{name} | title", f"Why {name}?", "Exact."
        module.Settings, module.SMALL = Settings, Settings(1)
        module.compute = compute
        module.checks = lambda result: [Check("one", result, 1.0, 0.0, "a | b")]
        module.answer = lambda result: f"It is {result}."
        module.draw = lambda result: plt.figure()
        return module


@pytest.fixture
def bench(monkeypatch):
    made = Bench()
    chapters = {"Only one": ("first", "second"), "None yet": ("third",)}
    monkeypatch.setattr(studies, "CHAPTERS", chapters)
    monkeypatch.setattr(studies, "NAMES", chapters["Only one"])
    monkeypatch.setattr(studies, "load", made.load)
    x64 = jax.config.read("jax_enable_x64")
    yield made
    jax.config.update("jax_enable_x64", x64)
    plt.close("all")


def test_all_goes_on_after_an_interruption(bench, tmp_path, capsys):
    options = Figures(all=True, output=tmp_path, quiet=True)
    bench.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        run_figures(options)
    bench.interrupt = False
    assert run_figures(options) == 0
    assert bench.computed == [("first", 2), ("second", 2)]
    assert "first: finished in the interrupted run" in capsys.readouterr().out
    assert not (tmp_path / ".progress.json").exists()
    run_figures(options)  # a complete run is no reason to skip the next one
    assert bench.computed[2:] == [("first", 2), ("second", 2)]


@pytest.mark.parametrize("change", ["settings", "a lost file", "a damaged note"])
def test_nothing_is_skipped_that_may_differ(bench, tmp_path, change):
    bench.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        run_figures(Figures(all=True, output=tmp_path, quiet=True))
    bench.interrupt = False
    if change == "a lost file":
        (tmp_path / "first.pdf").unlink()
    if change == "a damaged note":
        (tmp_path / ".progress.json").write_text('["first')
    small = change == "settings"
    run_figures(Figures(all=True, small=small, output=tmp_path, quiet=True))
    assert [name for name, _ in bench.computed] == ["first", "first", "second"]


def test_a_failed_check_is_exit_code_3_and_computed_again(bench, tmp_path):
    bench.value = 2.0
    assert run_figures(Figures(all=True, output=tmp_path, quiet=True)) == 3
    bench.value = 1.0
    assert run_figures(Figures(all=True, output=tmp_path, quiet=True)) == 0
    assert len(bench.computed) == 4


def test_times_are_kept_apart_from_the_records(bench, tmp_path):
    run_figures(Figures(names=("first",), output=tmp_path, quiet=True))
    before = (tmp_path / "first.json").read_bytes()
    times = json.loads((tmp_path / "times.json").read_text())
    assert times["first"]["seconds"] >= 1
    run_figures(Figures(names=("second",), small=True, output=tmp_path, quiet=True))
    assert list(json.loads((tmp_path / "times.json").read_text())) == ["first"]
    run_figures(Figures(names=("first",), output=tmp_path, quiet=True))
    assert (tmp_path / "first.json").read_bytes() == before


def test_the_page_shows_question_answer_checks_and_time(bench, tmp_path):
    run_figures(Figures(all=True, output=tmp_path, quiet=True))
    page = (tmp_path / "README.md").read_text()
    assert page == gallery(tmp_path, studies.CHAPTERS)
    assert "2 studies, 2 numbers checked" in page
    assert "**Only one**" in page
    assert "None yet" not in page
    for text in ("**Why first?** It is 1.0.", "first \\| title", "a \\| b", "## second | title"):
        assert text in page
    assert "`gradhorizon figures first`, 1 s on " in page
    assert '<a href="#second"><img src="second.png"' in page
    assert '<a id="second"></a>' in page
