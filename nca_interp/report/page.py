"""What a page is made of: sections of verdicts, figures, tables and notes. Plain values; render.py turns them into HTML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import altair as alt
import pandas as pd


@dataclass(frozen=True)
class Chart:
    """One Vega-Lite view of a figure."""

    spec: alt.Chart | alt.LayerChart
    description: str
    """What a screen reader says."""
    title: str = ""


@dataclass(frozen=True)
class Choice:
    """A selector above a figure; it sets the Vega parameter `name` in every view and filters the figure's table."""

    name: str
    label: str
    options: tuple[tuple[str, str], ...]
    """(value, text) pairs; the first is shown at the start."""


@dataclass(frozen=True)
class Widget:
    """A figure that is no chart: `attention` and `player` are canvases of app.js, `text` is tokens shaded by `level` 0 to 4."""

    kind: str
    data: dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """Charts or one widget, a caption that says first what is seen, and the data behind it."""

    id: str
    finding: str
    encoding: str
    data: pd.DataFrame
    charts: tuple[Chart, ...] = ()
    widget: Widget | None = None
    choices: tuple[Choice, ...] = ()
    columns: int = 2
    """Views side by side on a wide screen."""
    swatches: bool = True
    """Whether the legend of regimes applies to it."""
    nothing: bool = False
    """Nothing it shows differs from nothing: its finding says so, and the drawing is closed at first."""
    kind: str = field(default="figure", init=False)


@dataclass(frozen=True)
class Table:
    """A table whose cells are text already; `numeric` columns are set right-aligned."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    numeric: frozenset[int] = frozenset()
    id: str = ""
    folded: bool = False
    """Closed at first."""
    kind: str = field(default="table", init=False)


@dataclass(frozen=True)
class Verdict:
    """One planned comparison, ready to be printed."""

    group: str
    comparison: str
    verdict: str
    sentence: str
    cells: tuple[tuple[str, str], ...]
    """(heading, value) pairs."""

    @property
    def tone(self) -> str:
        """Style of the badge: better, worse, equivalent, inconclusive, clear or none."""
        word = self.verdict.split(" ")[0].strip("(,").lower()
        return word if word in ("better", "worse", "equivalent", "inconclusive", "clear") else "none"


@dataclass(frozen=True)
class VerdictBox:
    """The comparisons that the study was made for, and the rule by which they were judged."""

    verdicts: tuple[Verdict, ...]
    rule: str
    kind: str = field(default="verdicts", init=False)

    @property
    def groups(self) -> dict[str, list[Verdict]]:
        """Verdicts by domain."""
        found: dict[str, list[Verdict]] = {}
        for verdict in self.verdicts:
            found.setdefault(verdict.group, []).append(verdict)
        return found


@dataclass(frozen=True)
class Note:
    """A paragraph; `code` sets it in a block that can be copied."""

    text: str
    code: bool = False
    quiet: bool = False
    absent: bool = False
    """It says only that something was not measured: a report on checkpoints from elsewhere leaves it out."""
    kind: str = field(default="note", init=False)


@dataclass(frozen=True)
class Found:
    """What a claim came to in one domain."""

    place: str
    """The domain; empty where there is one."""
    verdict: str
    numbers: str
    """Effect, interval, unit and n as text."""
    sentence: str
    change: str
    """What would change the verdict."""
    judged: str = ""
    """How it was judged, in words."""
    evidence: str = ""
    """Anchor on this page."""
    bar: tuple[float, float, float, float] | None = None
    """Places of the interval's ends, its middle and of no effect on a line from 0 to 100; None: no interval."""

    @property
    def tone(self) -> str:
        """Style of the badge, by its first words."""
        words = {"supported": "better", "contradicted": "worse", "no": "equivalent", "inconclusive": "inconclusive"}
        return words.get(self.verdict.split(" ")[0].strip(",").lower(), "none")


@dataclass(frozen=True)
class Answer:
    """What a reader asks, a word that answers it and the sentences that carry the word."""

    question: str
    word: str
    tone: str
    """Style of the word, as of a badge."""
    told: tuple[str, ...]
    evidence: str = ""
    """Anchor on this page."""


@dataclass(frozen=True)
class Answers:
    """The answers that stand before everything else."""

    entries: tuple[Answer, ...]
    kind: str = field(default="answers", init=False)


@dataclass(frozen=True)
class Claimed:
    """A claim and what came out."""

    name: str
    says: str
    source: str
    found: tuple[Found, ...]


@dataclass(frozen=True)
class ClaimBox:
    """The claims of a study, the first thing that a reader sees."""

    claims: tuple[Claimed, ...]
    untested: tuple[tuple[str, str, str, str], ...]
    """Claims without a verdict and without a number: what is claimed, the word for it, why, what would have to be run."""
    kind: str = field(default="claims", init=False)


@dataclass(frozen=True)
class Flow:
    """What was trained, a row a source: boxes in order, each a heading and lines."""

    heads: tuple[str, ...]
    rows: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...]
    caption: str
    kind: str = field(default="flow", init=False)


Item = Figure | Table | VerdictBox | Note | Answers | ClaimBox | Flow
MOST_OPEN = 5
"""Figures that stand open in a part of the page; those after them are folded together."""


@dataclass(frozen=True)
class Section:
    """A headed part of the page."""

    id: str
    title: str
    items: tuple[Item, ...]
    intro: str = ""
    columns: int = 1
    """Items side by side on a wide screen."""
    group: str = ""
    """Heading of the contents under which it stands; empty: that of the section before."""
    folded: bool = False
    """Closed at first."""
    tones: tuple[tuple[str, str], ...] = ()
    """(tone, verdict) marks beside its name in the contents."""

    @property
    def split(self) -> tuple[tuple[Item, ...], tuple[Item, ...]]:
        """Items that stand open, and those that are folded: from the figure on that would be one more than MOST_OPEN. A part that
        is closed at first is not split."""
        figures = [place for place, item in enumerate(self.items) if isinstance(item, Figure) and not item.nothing]
        if self.folded or len(figures) <= MOST_OPEN:
            return self.items, ()
        return self.items[: figures[MOST_OPEN]], self.items[figures[MOST_OPEN] :]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    facts: tuple[tuple[str, str], ...]
    """The setting: (name, value) pairs under the title."""
    cautions: tuple[str, ...]
    legend: tuple[tuple[str, str], ...]
    """(regime, label) pairs in the order of their colours."""
    sections: tuple[Section, ...]
    record: dict[str, Any]
    """Machine-readable verdicts and provenance: report.json."""
    opening: int = 0
    """Sections that stand before the cautions."""
    scheme: Any = None
    """A `scheme.Scheme`: a small picture of the study beside its title."""
