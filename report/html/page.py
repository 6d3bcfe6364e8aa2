"""Self-contained HTML pages: templates, escaping and the content security policy, in one place.

Decisions:
- Everything is inlined and nothing is fetched: a page works from file://, from a bucket, and in ten years.
- Autoescape is on for every template; `Markup` is made only from our own style sheets, scripts and charts.
- The policy allows data: images and the one script whose hash it names. Were a caption to slip through the escaping, it
  could still neither run nor load anything.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..draw import labels as draw

TEMPLATES = Path(__file__).parent / "templates"


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["picture"] = lambda panel: isinstance(panel, draw.Picture)
    environment.tests["swatches"] = lambda panel: isinstance(panel, draw.Swatches)
    environment.tests["table"] = lambda panel: isinstance(panel, draw.TablePanel)
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["brief"] = brief
    environment.filters["duration"] = duration
    return environment


def render(template: str, *, styles: tuple[str, ...], script: str = "", **context: Any) -> str:
    """A complete page from templates/`template`, with files of templates/ as its style sheets and its script.

    Characters that UTF-8 cannot carry (lone surrogates in JSON captions) become "?", so that the page can be written.
    """
    code = (TEMPLATES / script).read_text("utf-8") if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode("ascii")
    policy = "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            "style-src 'unsafe-inline'",
            f"script-src 'sha256-{digest}'" if code else "script-src 'none'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    page = (
        _environment()
        .get_template(template)
        .render(
            policy=policy,
            style=Markup("\n".join((TEMPLATES / style).read_text("utf-8") for style in styles)),
            script=Markup(code),
            **context,
        )
    )
    return page.encode("utf-8", "replace").decode("utf-8")


def brief(number: float) -> str:
    """A number for a headline: 950 -> "950", 23_400 -> "23.4 k", 1.2e9 -> "1.2 G"."""
    for factor, suffix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(number) >= factor:
            scaled = number / (1e3 if suffix == " k" else factor)
            return f"{scaled:.3g}{suffix}" if scaled < 1000 else f"{scaled:,.0f}{suffix}"
    return f"{number:,.0f}" if number == int(number) else f"{number:,.3g}"


def duration(seconds: float) -> str:
    """Seconds for people: "0.4 s", "12 s", "3 min 20 s", "2 h 05 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
