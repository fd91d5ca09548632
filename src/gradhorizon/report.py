"""A diagnosis as one self-contained HTML page: no script, nothing loaded from elsewhere."""

import base64
import html
import json
import os
from pathlib import Path
from typing import Any

from gradhorizon._record import jsonable
from gradhorizon.regimes._text import headline
from gradhorizon.regimes.diagnose import Diagnosis

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
 color: #1c1c1c; background: #fff; }}
h1 {{ font-size: 1.35rem; }} h2 {{ font-size: 1.05rem; margin-top: 2rem; }}
img {{ max-width: 100%; height: auto; }}
pre {{ font: 12.5px/1.45 ui-monospace, monospace; background: #f6f6f4; padding: 1rem;
 overflow-x: auto; }}
table {{ border-collapse: collapse; }} td, th {{ padding: .2rem .8rem .2rem 0; text-align: left; }}
</style></head><body>
<h1>{headline}</h1>
<img alt="gradient against lag, singular values, criteria and exponents"
 src="data:image/png;base64,{picture}">
<h2>What would help</h2><ul>{advice}</ul>
<h2>In full</h2><pre>{text}</pre>
<h2>Self-checks</h2><table><tr><th>identity</th><th>residual</th><th>allowed</th></tr>
{checks}</table>
<h2>Numbers</h2><details><summary>as JSON</summary><pre>{data}</pre></details>
</body></html>
"""


def write_html(diagnosis: Diagnosis, picture: bytes, path: Any) -> None:
    """Write a diagnosis to an HTML file, completely or not at all.

    Parameters
    ----------
    diagnosis
        A concrete `Diagnosis`.
    picture
        Its figure as PNG.
    path
        Where to write; an existing file is replaced only once the new one is complete.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page(diagnosis, picture), encoding="utf-8")
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def page(diagnosis: Diagnosis, picture: bytes) -> str:
    """Compose the page; every string that enters it is escaped."""
    rows = "".join(
        f"<tr><td>{html.escape(c.name)}</td><td>{float(c.residual):.2g}</td>"
        f"<td>{float(c.tolerance):.2g}</td></tr>"
        for c in diagnosis.checks
    )
    data = json.dumps(jsonable(diagnosis.to_dict()), indent=1, sort_keys=True)
    return _PAGE.format(
        title=html.escape(headline(diagnosis)),
        headline=html.escape(headline(diagnosis)),
        picture=base64.b64encode(picture).decode("ascii"),
        advice="".join(f"<li>{html.escape(a)}</li>" for a in diagnosis.advice),
        text=html.escape(str(diagnosis)),
        checks=rows,
        data=html.escape(data),
    )
