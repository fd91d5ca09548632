"""The gallery's page: what every study asks, answers and checks, read from the stored records."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMES = "times.json"  # beside the records, which are the same bytes on every run


def gallery(folder: Path, chapters: Mapping[str, tuple[str, ...]]) -> str:
    """Compose figures/README.md from the stored records of the studies.

    Parameters
    ----------
    folder
        Where the .json files lie.
    chapters
        The studies of each chapter in order; those without a record are left out.

    Returns
    -------
    str
        Markdown: an overview with thumbnails, then for each study the picture, the question, the
        answer, the source, the command with its run time, and the checks.
    """
    times = read_times(folder)
    overview, sections, studies, checks = [], [], 0, 0
    for title, names in chapters.items():
        found = [folder / f"{name}.json" for name in names]
        records = [json.loads(p.read_text(encoding="utf-8")) for p in found if p.exists()]
        if not records:
            continue
        studies += len(records)
        checks += sum(len(record["checks"]) for record in records)
        overview += [f"\n**{title}**\n", "| | |", "|---|---|", *map(_thumbnail, records)]
        sections += [_section(record, times.get(record["study"])) for record in records]
    made = "Made by `gradhorizon figures --all`"
    head = ["# Gallery\n", f"{made}: {studies} studies, {checks} numbers checked."]
    return "\n".join([*head, *overview, "", *sections])


def read_times(folder: Path) -> dict[str, dict[str, int]]:
    """Give seconds and cores of the last run of each study at full settings."""
    path = folder / TIMES
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def with_time(folder: Path, name: str, seconds: float) -> str:
    """Give the text of the file of run times with one study's time entered."""
    entry = {"seconds": max(round(seconds), 1), "cores": os.cpu_count() or 1}
    return json.dumps({**read_times(folder), name: entry}, indent=1, sort_keys=True) + "\n"


def _thumbnail(record: dict[str, Any]) -> str:
    """Compose a row of the overview; the heading's anchor would depend on the renderer."""
    name = record["study"]
    link = f'<a href="#{name}"><img src="{name}.png" width="220" alt="{name}"></a>'
    return f"| {link} | **{_cell(record['question'])}** {_cell(record['title'])} |"


def _section(record: dict[str, Any], time: dict[str, int] | None) -> str:
    """Compose the section of one study."""
    rows = [
        f"| {_cell(c['name'])} | {_number(c['value'])} | {_number(c['expected'])} | "
        f"{_number(c['tolerance'])} | {'yes' if c['passed'] else '**no**'} | {_cell(c['source'])} |"
        for c in record["checks"]
    ]
    name = record["study"]
    took = f", {time['seconds']} s on {time['cores']} cores" if time else ""
    return "\n".join(
        [
            f'<a id="{name}"></a>\n',
            f"## {record['title']}\n",
            f"![{name}]({name}.png)\n",
            f"**{record['question']}** {record['answer']}\n",
            f"Source: {record['source']}\n",
            f"Command: `gradhorizon figures {name}`{took} ([PDF]({name}.pdf), "
            f"[numbers]({name}.json)).\n",
            "| check | value | expected | tolerance | passed | source |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _cell(text: str) -> str:
    """Escape what would end a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _number(value: Any) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)
