"""What the README shows is what happens."""

import contextlib
import io
import re
from pathlib import Path

import pytest

import gradhorizon as gh
from gradhorizon import studies

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(kind):
    """Give the fenced blocks of a kind."""
    return re.findall(rf"```{kind}\n(.*?)```", README, re.S)


def test_example_prints_what_the_readme_says():
    (code, adapted), (shown,) = blocks("python"), blocks("text")
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "README.md", "exec"), names := {})
    verdict = io.StringIO()
    with contextlib.redirect_stdout(verdict):
        exec(compile(adapted, "README.md", "exec"), names)
    assert verdict.getvalue().strip() in gh.Regime.__members__

    def portable(text):  # whether subnormals are flushed differs between devices
        return [line for line in text.strip().splitlines() if "plain backward" not in line]

    assert portable(out.getvalue()) == portable(shown)


def test_commands_that_do_all_the_setup():
    assert blocks("bash")[:2] == [
        "pip install -e . && gradhorizon demo\n",
        'pip install -e ".[test]" && pytest\n',
    ]


def test_links_lead_somewhere():
    for document in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks/README.md"]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"gh\.([a-z_.]+)", README))))
def test_names_exist(name):
    value = gh
    for part in name.strip(".").split("."):
        value = getattr(value, part)


def test_the_gallery_has_as_many_figures_as_it_says():
    assert f"{len(studies.NAMES)} figures" in README
