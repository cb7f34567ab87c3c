"""A page as one HTML file: shared columnar data, one Vega bundle, a content policy by hashes, no request to anywhere."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import pandas as pd
from markupsafe import Markup

from nca_interp.base import RunFailed
from nca_interp.files import write_text
from nca_interp.outputs import begins, check_output
from nca_interp.report.charts.theme import SHAPES, THEMES, config, slot
from nca_interp.report.glossary import Glosser, anchor
from nca_interp.report.page import Figure, Page

MAX_BYTES = 10_000_000
DIGITS = 6
"""Significant digits of embedded numbers; the tables beside the page hold all of them."""
_PATHS = {
    "circle": "M6 1.5a4.5 4.5 0 1 0 .01 0z", "square": "M2 2h8v8H2z", "triangle-up": "M6 1.2l5 9H1z", "diamond": "M6 .8L11 6 6 11.2 1 6z",
    "cross": "M4.2 1h3.6v3.2H11v3.6H7.8V11H4.2V7.8H1V4.2h3.2z", "triangle-down": "M6 10.8l5-9H1z",
}  # fmt: skip


@lru_cache(maxsize=1)
def bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    converter: Any = vl_convert  # its stub calls the optional argument required
    return str(converter.javascript_bundle())


def resource(name: str) -> str:
    """A file of this folder as text."""
    return (resources.files("nca_interp.report") / name).read_text(encoding="utf-8")


def write_page(page: Page, path: Path, vega: Callable[[], str] = bundle) -> None:
    """Write a page as HTML; UserError if something else than a page of this program is there. `vega`: gives the `bundle`."""
    check_page(path)
    write_text(path, render(page, vega))


def check_page(path: Path) -> None:
    """UserError if something else than a page of this program is there: its head is that of the template."""
    check_output("report", path, "page of this program", is_page)


def is_page(path: Path) -> bool:
    """Whether a file begins as the pages of this program do."""
    return begins(resource("template.html.j2").partition("{{")[0])(path)


SCRIPTS = ("heads.js", "maps.js", "player.js", "sift.js", "save.js", "app.js")
"""Before app.js only functions and constants, which it calls."""
STYLES = ("style.css", "player.css")


def script() -> str:
    """The page's own script: one scope over all files, so functions of each are known to all."""
    return '(async () => {\n"use strict";\n' + "".join(map(resource, SCRIPTS)) + "})();\n"


def embed(value: Any) -> Markup:
    """JSON that cannot leave its script element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def packed(value: Any) -> Markup:
    """JSON, deflated (zlib) and as base64: what the page's script reads first. A fifth of its size on real reports."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return Markup(base64.b64encode(zlib.compress(text.encode(), 9)).decode())


def unpacked(html: str) -> dict[str, Any]:
    """The data of the figures of a written page."""
    text = html.partition('id="page-data">')[2].partition("</script>")[0]
    found: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text)))
    return found


def script_hash(text: str) -> str:
    """The content policy's name of an inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def columnar(rows: pd.DataFrame) -> dict[str, Any]:
    """Columns instead of rows; text as indices into its distinct values; numbers to six significant digits."""
    return {"n": len(rows), "columns": {str(c): _column(list(rows[c])) for c in rows.columns}}


def _column(values: list[Any]) -> Any:
    if any(isinstance(v, str) for v in values):
        distinct = list(dict.fromkeys(values))
        index = {v: i for i, v in enumerate(distinct)}
        return {"d": distinct, "i": [index[v] for v in values]}
    return [_number(v) for v in values]


def _number(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        value = float(f"{value:.{DIGITS}g}")
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    return value


def _figures(page: Page) -> tuple[dict[str, Any], dict[str, Any]]:
    """Specifications by figure, and the data sets that they share."""
    figures: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    with alt.data_transformers.enable("default", max_rows=None, consolidate_datasets=True), alt.theme.enable("none"):
        for section in page.sections:
            for item in section.items:
                if isinstance(item, Figure):
                    assert item.id not in figures, f"two figures are called {item.id}"
                    figures[item.id] = _figure(item, shared)
    return figures, shared


def _figure(figure: Figure, shared: dict[str, Any]) -> dict[str, Any]:
    charts = []
    for chart in figure.charts:
        spec = chart.spec.properties(description=chart.description).to_dict(
            validate=False
        )  # a test validates them; it is half of the time
        names = list(spec.get("datasets", {}))
        for name, rows in spec.pop("datasets", {}).items():
            shared.setdefault(name, columnar(pd.DataFrame(rows, dtype=object)))
        for key in ("$schema", "config"):
            spec.pop(key, None)
        spec["params"] = [
            *spec.get("params", []),
            *({"name": c.name, "value": c.options[0][0]} for c in figure.choices),
        ]
        charts.append({"spec": spec, "data": names})
    widget = {"kind": figure.widget.kind, **figure.widget.data} if figure.widget else None
    return {
        "charts": charts,
        "table": columnar(figure.data),
        "choices": [c.name for c in figure.choices],
        "widget": widget,
    }


def render(page: Page, vega_script: Callable[[], str] = bundle) -> str:
    """The whole HTML text of a page. Raises RunFailed when it would exceed 10 MB, naming the largest figures."""
    figures, shared = _figures(page)
    app, vega = script(), vega_script() if figures else ""  # a page of tables alone draws nothing
    allowed = " ".join(f"'{script_hash(text)}'" for text in (vega, app) if text)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    gloss = Glosser()
    environment.filters["gloss"] = gloss
    environment.globals |= {"part": gloss.begin, "glossary": gloss.used, "anchor": anchor}
    environment.filters["longest"] = lambda text: max(map(len, str(text).split()), default=0)
    legend = [
        {"name": n, "label": t, "slot": slot(i), "path": _PATHS[SHAPES[slot(i + i // len(SHAPES))]]}
        for i, (n, t) in enumerate(page.legend)
    ]
    known = {name for s in page.sections for name in (s.id, *(getattr(item, "id", "") for item in s.items))}
    known.discard("")
    html = environment.from_string(resource("template.html.j2")).render(
        page=page, known=known, legend=legend, policy=policy, css=Markup("".join(map(resource, STYLES))), palette=Markup(_palette_css()),
        heads=any(f["widget"] and f["widget"]["kind"] == "heads" for f in figures.values()), vega=Markup(vega), app=Markup(app), record=embed(page.record),
        data=packed({"figures": figures, "datasets": shared, "themes": THEMES, "config": config(), "study": page.record["study"]}),
    )  # fmt: skip
    size = len(html.encode())
    if size > MAX_BYTES:
        sizes = {name: len(json.dumps(value)) for name, value in figures.items()}
        largest = ", ".join(f"{n} ({b / 1e6:.1f} MB)" for n, b in sorted(sizes.items(), key=lambda x: -x[1])[:3])
        raise RunFailed(
            f"the report would have {size / 1e6:.1f} MB, more than {MAX_BYTES / 1e6:.0f}; largest: {largest}"
        )
    return html


def _palette_css() -> str:
    """The regimes' colours as custom properties, from the same place as the charts'."""
    light, dark = ("".join(f"--pal{i}:{c};" for i, c in enumerate(THEMES[t]["pal"])) for t in ("light", "dark"))
    return f":root{{{light}}}:root[data-theme=dark]{{{dark}}}@media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
