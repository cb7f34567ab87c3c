"""Every figure of a report as files for a paper: SVG and PNG of each view, CSV of its data with all digits."""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from PIL import Image

from nca_interp import discover
from nca_interp.files import write_bytes, write_text
from nca_interp.outputs import check_output
from nca_interp.report.build import page_of
from nca_interp.report.charts.theme import RAMP_LIGHT, config, regime_color, regime_shape
from nca_interp.report.page import Figure, Page

WIDTH = 620
"""Pixels of a view; the page's own follow the window."""
SCALE = 2.0
"""Pixels of the PNG for one of the SVG."""
MARK = "figures of a report"
"""First words of the list that stands beside the figures, by which the folder is known as ours."""
INDEX = "figures.txt"
MOST = 48
"""Pictures of one figure: of one with more, the options of its selectors that come first are drawn."""


@dataclass
class Exported:
    """What was written."""

    figures: int = 0
    pictures: int = 0
    bare: list[str] = field(default_factory=list)
    """Figures without a picture: what they show is drawn by the page's script."""
    cut: dict[str, str] = field(default_factory=dict)
    """Figure -> how many of how many combinations of its selectors' options were drawn, where not all were."""


def export_figures(
    study_dir: Path,
    folder: Path,
    definition: discover.Definition | None = None,
    say: Callable[[str], None] = lambda what: None,
) -> Exported:
    """Write ID.svg, ID.png and ID.csv of every figure of a study's report into `folder` (ID-1, ID-2, ... where a figure has several
    views), of a figure with selectors for every option (ID-OPTION, ID-1-OPTION, ...), at most MOST pictures a figure. In the light colours, on white, `WIDTH` pixels wide. `folder`: new, empty, or
    one written by this before. UserError as for `build_report`; nothing is written then."""
    check_output("--figures", folder, "folder of figures", _mine)
    page = page_of(study_dir, definition, say)
    folder.mkdir(parents=True, exist_ok=True)
    done, lines = Exported(), [f"{MARK}: {page.title}"]
    write_text(folder / INDEX, lines[0] + "\n")
    widgets = [i.widget for s in page.sections for i in s.items if isinstance(i, Figure) and i.widget is not None]
    exhibits: list[Any] = next((w.data["entries"] for w in widgets if w.kind == "thumbnails"), [])
    for section in page.sections:
        for item in section.items:
            if isinstance(item, Figure):
                say(f"figures: {item.id}")
                done.figures += 1
                name_of = re.sub(r"[^\w.-]", "_", item.id)
                pictures = {re.sub(r"[^\w.-]", "_", name): drawn for name, drawn in _pictures(item, exhibits).items()}
                if not pictures:
                    done.bare.append(item.id)
                for name, (svg, png) in pictures.items():
                    write_text(folder / f"{name}.svg", svg)
                    write_bytes(folder / f"{name}.png", png)
                done.pictures += len(pictures)
                if cut := _cut(item):
                    done.cut[item.id] = cut
                write_text(folder / f"{name_of}.csv", item.data.to_csv(index=False))
                lines.append(f"{item.id}: {item.finding}")
                lines += [f"  {name}" for name in pictures]
                lines += [f"  {done.cut[item.id]}; the page shows the others"] if item.id in done.cut else []
    if page.legend:
        svg, png = _legend(page)
        write_text(folder / "legend.svg", svg)
        write_bytes(folder / "legend.png", png)
    write_text(folder / INDEX, "\n".join(lines) + "\n")
    return done


def _legend(page: Page) -> tuple[str, bytes]:
    """Colour and shape of every regime, which the page shows once for all figures."""
    names = [name for name, _ in page.legend]
    rows = pd.DataFrame({"regime": names, "text": [n if n == t else f"{n}: {t}" for n, t in page.legend]})
    axis = alt.Axis(title=None, domain=False, ticks=False, grid=False, orient="right", labelLimit=500)
    y = alt.Y("text:N", sort=list(rows.text), axis=axis)
    chart = alt.Chart(rows).mark_point(size=90, filled=True, opacity=1)
    return draw(
        chart.encode(y=y, color=regime_color(names), shape=regime_shape(names)), "Legend of the regimes", width=24
    )


def _mine(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    index = folder / INDEX
    return not any(folder.iterdir()) or (
        index.is_file() and index.read_text(encoding="utf-8", errors="replace").startswith(MARK)
    )


def _pictures(figure: Figure, exhibits: list[dict[str, Any]]) -> dict[str, tuple[str, bytes]]:
    """File name -> SVG and PNG of each view; `exhibits`: the patterns that the page holds."""
    if not figure.charts:
        return {name: _image(png) for name, png in _rasters(figure, exhibits)}
    names = [figure.id] if len(figure.charts) == 1 else [f"{figure.id}-{i}" for i in range(1, len(figure.charts) + 1)]
    shown = ["-".join(values) for values in itertools.islice(_options(figure), _drawn(figure))]
    suffixes = _distinct(shown) if _combinations(figure) > 1 else [""]
    return {
        name + suffix: draw(
            chart.spec, chart.description, dict(zip((c.name for c in figure.choices), values, strict=True))
        )
        for values, suffix in zip(_options(figure), suffixes, strict=False)
        for name, chart in zip(names, figure.charts, strict=True)
    }


def _options(figure: Figure) -> Iterator[tuple[str, ...]]:
    """Every combination of the options of a figure's selectors, those that are shown first in front."""
    return itertools.product(*([value for value, _ in choice.options] for choice in figure.choices))


def _combinations(figure: Figure) -> int:
    return math.prod(len(choice.options) for choice in figure.choices)


def _drawn(figure: Figure) -> int:
    """How many combinations are drawn."""
    return min(_combinations(figure), max(1, MOST // len(figure.charts)))


def _cut(figure: Figure) -> str:
    """What was left out of a figure in words; empty where all was drawn."""
    if not figure.charts:
        return ""
    every, drawn = _combinations(figure), _drawn(figure)
    named = " and ".join(choice.label for choice in figure.choices)
    return f"the first {drawn} of {every} options of {named}" if drawn < every else ""


def _distinct(options: list[str]) -> list[str]:
    """Ends of file names for options, none twice."""
    found: list[str] = []
    for place, option in enumerate(options, 1):
        end = "-" + (re.sub(r"[^\w.-]+", "_", option)[:60].strip("_") or str(place))
        found.append(end if end.lower() not in (f.lower() for f in found) else f"{end}-{place}")
    return found


def draw(chart: Any, description: str, chosen: dict[str, str] | None = None, width: int = WIDTH) -> tuple[str, bytes]:
    """SVG and PNG of one view in the light colours on white; `chosen`: the option of each selector."""
    import vl_convert

    with alt.data_transformers.enable("default", max_rows=None), alt.theme.enable("none"):
        spec = chart.properties(description=description).to_dict(validate=False)
    spec |= {"width": width, "background": "white", "config": {**config(), "background": "white"}}
    spec["params"] = [
        *spec.get("params", []),
        *({"name": name, "value": value} for name, value in (chosen or {}).items()),
    ]
    svg = vl_convert.vegalite_to_svg(spec)
    return svg, bytes(vl_convert.svg_to_png(svg, scale=SCALE))


def _rasters(figure: Figure, exhibits: list[dict[str, Any]]) -> list[tuple[str, bytes]]:
    """PNGs of what a widget shows, in the page's light colours."""
    if figure.widget is None:
        return []
    data = figure.widget.data
    if figure.widget.kind == "player":
        return [(figure.id, _enlarged(Image.open(io.BytesIO(_decoded(data["png"]))).convert("RGB")))]
    if figure.widget.kind == "attention":
        return [(f"{figure.id}-{i}", _painted(_pattern(entry, exhibits))) for i, entry in enumerate(data["entries"], 1)]
    if figure.widget.kind == "thumbnails":
        return [(f"{figure.id}-{i}", _painted(_grey(entry["sheet"]))) for i, entry in enumerate(data["entries"], 1)]
    return []


def _pattern(entry: dict[str, Any], exhibits: list[dict[str, Any]]) -> np.ndarray:
    """Grey levels of the pattern of one head: its own picture, that of an exhibit, or its place in the sheet of thumbnails."""
    if entry.get("png"):
        return _grey(entry["png"])
    exhibit, place = exhibits[entry["exhibit"]], entry["place"]
    if place in exhibit["whole"]:
        return _grey(exhibit["whole"][place])
    (layer, head), side = map(int, place.split(".")), exhibit["side"]
    return _grey(exhibit["sheet"])[layer * side : (layer + 1) * side, head * side : (head + 1) * side]


def _decoded(uri: str) -> bytes:
    return base64.b64decode(uri.partition(",")[2])


def _grey(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(_decoded(uri))).convert("L"))


def _painted(grey: np.ndarray) -> bytes:
    """8-bit grey levels [row, column] in the sequential colours of the page."""
    stops = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in RAMP_LIGHT], float)
    at = np.linspace(0, len(stops) - 1, 256)
    table = np.stack([np.interp(at, range(len(stops)), stops[:, k]) for k in range(3)], axis=1).round().astype(np.uint8)
    return _enlarged(Image.fromarray(table[grey]))


def _enlarged(image: Image.Image) -> bytes:
    """At least `WIDTH` pixels wide, every cell a square of whole pixels."""
    factor = max(1, -(-WIDTH // image.width))
    buffer = io.BytesIO()
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def _image(png: bytes) -> tuple[str, bytes]:
    """A raster as an SVG of one image, and itself."""
    size = Image.open(io.BytesIO(png)).size
    uri = "data:image/png;base64," + base64.b64encode(png).decode()
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" viewBox="0 0 {size[0]} {size[1]}">'
        f'<image width="{size[0]}" height="{size[1]}" style="image-rendering:pixelated" href="{uri}"/></svg>'
    )
    return svg, png
