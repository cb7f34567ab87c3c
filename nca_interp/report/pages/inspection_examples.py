"""Examples of the page on one source: a row of low, middle and high complexity, as frames, brackets or text."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from nca_interp.report.charts import distributions as charts
from nca_interp.report.charts.numbers import fixed, listing, plural
from nca_interp.report.page import Chart, Figure, Item, Widget
from nca_interp.report.pages.inspection import Inspection, words
from nca_interp.report.sections.sources import frame_tokens, player

AXIS = "gzip_ratio_normalised"
"""Measure by which the examples were chosen."""
TOLD = (
    "lempel_ziv",
    "token_entropy",
    "mutual_information",
    "activity",
    "own_cell_entropy",
    "damage",
)
"""Measures written beside an example."""
LEVELS = (4.0, 6.0, 8.0, 10.0)
"""Bits of surprise at which the shade of a token deepens."""
CHOICES = (0.01, 0.5, 1.5, 3.0)
"""Bits that the generator chose at a token of a control at which its shade deepens."""


def examples(source: Inspection) -> list[Item]:
    """Rows at low, middle and high complexity."""
    draw = {"nca": _trajectory, "dyck": _brackets, "text": _text}.get(source.record["kind"], _symbols)
    return [draw(source, example) for example in source.record["examples"]]


def _finding(source: Inspection, example: dict[str, Any]) -> str:
    # a row of text may span documents: its group is the one that gives most of it
    origin = {"rule": ", rule ", "document": ", mostly from "}.get(source.unit)
    group = f"{origin}{example['group']}" if origin else ""
    axis = f": {words(AXIS)} {fixed(example['measures'][AXIS], 2)}" if AXIS in example["measures"] else ""
    return f"{example['level'].capitalize()} complexity{axis} (row {example['row']}{group})."


def _told(example: dict[str, Any]) -> str:
    values = [f"{words(m)} {fixed(example['measures'][m], 2)}" for m in TOLD if m in example["measures"]]
    told = listing(values)
    return f"{told[:1].upper()}{told[1:]}. " if values else ""


def _trajectory(source: Inspection, example: dict[str, Any]) -> Figure:
    spec, frames = source.spec, np.asarray(example["frames"], np.uint8)
    moved = (frames[1:] != frames[:-1]).mean(axis=(1, 2))
    encoding = (
        f"{plural(len(frames), 'frame')} of a {spec['grid']} × {spec['grid']} torus, {spec['n_states']} states (colours), {spec['dt']} "
        f"step{'s' if spec['dt'] > 1 else ''} apart; {100 * moved.min():.0f} to {100 * moved.max():.0f} % of the cells change from frame to frame. "
        f"Beside it the frame's tokens, one a patch of {spec['patch']} × {spec['patch']} cells; point at one to see its patch."
    )
    widget = player(frames, example["tokens"], spec["n_states"], spec["patch"], f"{example['level']} complexity")
    name = f"fig-example-{example['level']}"
    return Figure(
        name,
        _finding(source, example),
        _told(example) + encoding,
        frame_tokens(example["tokens"]),
        widget=widget,
        swatches=False,
    )


def _brackets(source: Inspection, example: dict[str, Any]) -> Figure:
    k, tokens = source.spec["k"], np.asarray(example["tokens"])
    opens = tokens < k
    data = pd.DataFrame({
        "position": range(len(tokens)), "token": tokens, "bracket": np.where(opens, "opens", "closes"), "type": tokens % k,
        "depth": example["depth"],
    })  # fmt: skip
    chart = charts.depths(data.assign(end=data.position + 1), k)
    encoding = (
        f"The first {len(tokens)} brackets. Height: how deep the bracket lies; colour: its type (0 to {k - 1}); full colour opens, pale closes. "
        f"{int(opens.sum())} open, largest depth {int(data.depth.max())}."
    )
    name = f"fig-example-{example['level']}"
    return Figure(
        name,
        _finding(source, example),
        _told(example) + encoding,
        data,
        (Chart(chart, f"Bracket depth, {example['level']} complexity"),),
        columns=1,
    )


def _text(source: Inspection, example: dict[str, Any]) -> Figure:
    encoding = (
        f"The first {len(example['tokens'])} tokens of the row, a thin line after each. The rarer a token is in this sample the darker it is: shades change at "
        f"{listing(f'{b:g}' for b in LEVELS)} bits of -log2(share of all tokens)."
    )
    return _pieces(source, example, LEVELS, encoding)


def _symbols(source: Inspection, example: dict[str, Any]) -> Figure:
    free = sum(bits > CHOICES[0] for bits in example["bits"])
    encoding = (
        f"The first {len(example['tokens'])} tokens of the row; {free} of them carry a choice. Dark: drawn at random, shades change at "
        f"{listing(f'{b:g}' for b in CHOICES)} bits; white: what came before, and what the row hides, leave no choice."
    )
    return _pieces(source, example | {"pieces": [f"{piece} " for piece in example["pieces"]]}, CHOICES, encoding)


def _pieces(source: Inspection, example: dict[str, Any], levels: tuple[float, ...], encoding: str) -> Figure:
    level = np.searchsorted(levels, example["bits"], side="right")
    tokens = [
        {"text": piece, "level": int(shade), "title": f"token {token}, {bits:.1f} bits"}
        for piece, shade, token, bits in zip(example["pieces"], level, example["tokens"], example["bits"], strict=True)
    ]
    data = pd.DataFrame({"token": example["tokens"], "text": example["pieces"], "bits": example["bits"]})
    return Figure(
        f"fig-example-{example['level']}",
        _finding(source, example),
        _told(example) + encoding,
        data,
        widget=Widget("text", {"tokens": tokens}),
    )
