"""The page on one match: what `analysis.match_run` wrote, as verdicts, a map of the grid, measures, readings."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from nca_interp.base import UserError
from nca_interp.report.charts.numbers import fixed, interval, p_value, plural, signed, whole
from nca_interp.report.charts.theme import ramp_scale, signal, sized
from nca_interp.report.page import Chart, Choice, Figure, Item, Note, Page, Section, Table, Verdict, VerdictBox
from nca_interp.report.pages.folder import Folder
from nca_interp.report.pages.inspection import words
from nca_interp.report.sections.method import flat, written
from nca_interp.report.tables import each

SHOWN = 16
"""Cells drawn with their intervals."""
LIMITS = (
    "That a distribution looks like a corpus does not make it a good teacher: that is the hypothesis, not a finding of this page.",
    "Six numbers are not a corpus. Two sources with equal numbers can differ in everything that a model learns.",
    "The interval speaks of other documents of this corpus and of other rules of the grid, not of other corpora or ways of measuring; those are the readings.",
)


class MatchFolder(Folder):
    """The folder of one match: `record`, and a data frame a table."""

    file, report, command = "match.json", "match", "nca-interp match CORPUS"
    kind = "match"

    def table(self, name: str) -> pd.DataFrame:
        """One table."""
        path = self.folder / "tables" / f"{name}.csv"
        try:
            return pd.read_csv(path, keep_default_na=False, na_values=dict.fromkeys(_NUMBERS, ""))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: not readable as a table ({error}); run nca-interp match again") from None


_NUMBERS = ("band_low", "band_high", "corpus", "low", "high", "nearest", "difference", "spread", "distance", "share")


def match_page(source: MatchFolder, sections: tuple[Section, ...]) -> Page:
    """A page around `sections`."""
    record = source.record
    facts = (
        ("Recommended", record["cell"]),
        ("Sample", f"{plural(record['rows'], 'row')} of {whole(record['row_length'])} {record['footing']}"),
        ("Independent", plural(record["groups"], source.unit)),
        ("Symbols in use", whole(record["alphabet_in_use"])),
        ("Compared", f"{plural(len(source.table('cells')), 'cell')} of the grid"),
    )
    return source.page(
        f"NCA data matched to {record['source']}",
        facts,
        (*record["cautions"], record["rests_on"]),
        sections,
        {"study": f"match-{source.folder.name}", "warnings": record["cautions"], **record},
    )


def settings(source: MatchFolder) -> list[Item]:
    """Each recommended setting with its verdict, and the recommendation in a sentence."""
    verdicts = tuple(
        Verdict(
            group="",
            comparison=f"{row.name}: {row.value}",
            verdict=row.verdict,
            sentence=" ".join(
                [
                    *([f"Not clear: {row.failed}."] if row.failed else []),
                    *([f"Also possible: {row.others}."] if row.others else []),
                ]
            ),
            cells=(
                ("of resamples", f"{100 * row.share:.4g} %"),
                ("of other ways", f"{row.agree} of {row.readings}"),
            ),
        )
        for row in each(source.table("settings"))
    )
    rule = (
        f"Clear: the nearest cell has this value in at least 95 % of {whole(source.record['resamples'])} resamples of whole {source.unit}s "
        "(the cells' own sampling error redrawn each time), in at least two thirds of the other ways of measuring below, and on the other "
        "footing (tokens or symbols) where that can be measured. Anything less is inconclusive."
    )
    return [Note(source.record["sentence"]), VerdictBox(verdicts, rule)]


def grid_map(source: MatchFolder) -> list[Item]:
    """Distance of every cell: states against complexity, one dT at a time."""
    cells = source.table("cells").assign(written=lambda f: f.distance.map("{:.2f}".format))
    best = cells.iloc[0]
    cells["best"] = cells.cell == best.cell
    if cells.duplicated(["n_states", "level", "dt"]).any():
        return []  # a grid with further axes has no map; its table is whole
    steps = sorted(cells["dt"].unique(), key=lambda d: (d != best["dt"], d))
    choice = Choice("step", "dT", tuple((str(d), str(d)) for d in steps))
    order = list(dict.fromkeys(cells.sort_values("band_low").sort_values("level", kind="stable").level))
    base = alt.Chart(cells).transform_filter("datum.dt == step")
    x = alt.X(
        "level:N",
        sort=order,
        title="complexity: share of the gzip ratio's reach",
        axis=alt.Axis(labelAngle=0, ticks=False, domain=False),
    )
    y = alt.Y("n_states:O", title="states", sort="descending", axis=alt.Axis(ticks=False, domain=False))
    color = alt.Color("distance:Q", legend=None, scale=ramp_scale(reverse=True))
    tip = [
        "cell:N",
        alt.Tooltip("band_low:Q", title="gzip ratio from"),
        alt.Tooltip("band_high:Q", title="gzip ratio to"),
        *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("distance", "low", "high", "share")),
    ]
    middle = float(cells.distance.min() + 0.45 * (cells.distance.max() - cells.distance.min()))
    tone = alt.ExprRef(f"datum.distance < {middle} ? bg : fg")
    layers = [
        base.mark_rect(aria=False, stroke=signal("bg"), strokeWidth=2).encode(x, y, color, tooltip=tip),
        base.mark_text(fontSize=11, color=tone).encode(x, y, text=alt.Text("written:N")),
        base.transform_filter("datum.best")
        .mark_rect(aria=False, fillOpacity=0, stroke=signal("pal[2]"), strokeWidth=3)
        .encode(x, y),
    ]
    finding = f"Nearest: {best.cell}, {fixed(best.distance)} away; its own rules are {fixed(source.record['own_spread'])} from their mean."
    encoding = (
        "Distance from the corpus in standard deviations between random rules: dark is near. Framed: the nearest cell. Equal complexities "
        "are equal parts of the reach at each number of states; point at a cell for its gzip ratios. Cells that are missing cannot be reached."
    )
    chart = Chart(sized(alt.layer(*layers), 34 * cells.n_states.nunique()), "Distance of every cell of the grid")
    return [
        Figure(
            "fig-grid",
            finding,
            encoding,
            cells.drop(columns=["written", "best"]),
            (chart,),
            choices=(choice,),
            columns=1,
            swatches=False,
        )
    ]


def nearest_cells(source: MatchFolder) -> list[Item]:
    """The nearest cells with the interval of their distance, tied ones in colour; every cell in a table."""
    cells = source.table("cells")
    cells["kind"] = cells.tied.astype(str).str.lower().map({"true": "cannot be told apart", "false": "farther"})
    shown = cells.head(SHOWN)
    order = list(shown.cell)
    axis = alt.Axis(
        title=None, grid=False, ticks=False, domain=False, labelLimit=230, labelFontSize=12, labelColor=signal("fg")
    )
    y = alt.Y("cell:N", sort=order, axis=axis, scale=alt.Scale(domain=order))
    title = "distance, standard deviations between random rules"
    color = alt.Color(
        "kind:N",
        legend=None,
        scale=alt.Scale(domain=["cannot be told apart", "farther"], range=[{"expr": "pal[2]"}, {"expr": "pal[0]"}]),
    )
    tip = [
        alt.Tooltip("cell:N"),
        alt.Tooltip("kind:N"),
        *(alt.Tooltip(f"{c}:Q", format=".3f") for c in ("distance", "low", "high", "share")),
    ]
    base = alt.Chart(shown)
    layers = [
        base.mark_rule(strokeWidth=2).encode(
            x=alt.X("low:Q", title=title, scale=alt.Scale(zero=True)), x2=alt.X2("high:Q"), y=y, color=color
        ),
        base.mark_point(size=70, filled=True, opacity=1).encode(
            x=alt.X("distance:Q", title=title), y=y, color=color, tooltip=tip
        ),
    ]
    tied = int((cells.kind == "cannot be told apart").sum())
    finding = (
        f"The nearest cell wins in {100 * cells.share.iloc[0]:.0f} % of the resamples; "
        f"{plural(tied - 1, 'other cell')} cannot be told apart from it."
    )
    encoding = "Point: distance; line: its 95 % interval over documents and rules. A cell cannot be told apart if it is nearer than the nearest in at least 5 % of the resamples."
    chart = Chart(sized(alt.layer(*layers), 24 * len(order)), "Distance of the nearest cells with intervals")
    return [
        Figure("fig-nearest", finding, encoding, cells.drop(columns="kind"), (chart,), columns=1, swatches=False),
        _unreachable(source),
    ]


def _unreachable(source: MatchFolder) -> Item:
    lost = source.record["unreachable"]
    if not lost:
        return Note("Every cell of the grid can be reached by random rules.", quiet=True)
    return Table(
        ("cell", "why it cannot be reached"), tuple((u["cell"], u["why"]) for u in lost), "", id="tab-unreachable"
    )


def measures(source: MatchFolder) -> list[Item]:
    """Corpus and nearest cell, measure by measure."""
    body = tuple(
        (
            words(r.coordinate), fixed(r.corpus), interval(r.low, r.high, sign=False), fixed(r.nearest), signed(r.difference, 2),
            "counts" if r.matched else r.note,
        )
        for r in each(source.table("coordinates"))
    )  # fmt: skip
    head = ("measure", "corpus", "95 % interval", "nearest cell", "difference, sd", "")
    caption = (
        "Means over rows. gzip, Lempel-Ziv, conditional entropy and entropy are 0 for a constant row and 1 for independent uniform symbols "
        "of the same number and length."
    )
    rule = source.record["paper_rule"]
    notes: list[Item] = [Note(rule["sentence"])] if rule else []
    return [Table(head, body, caption, frozenset({1, 2, 3, 4}), "tab-measures"), *notes]


def readings(source: MatchFolder) -> list[Item]:
    """The nearest cell under every other way of measuring."""
    rows = tuple((words(r.changed), r.cell, fixed(r.distance), r.counts) for r in each(source.table("readings")))
    caption = "One thing changed at a time. Distances of different readings are not on one scale."
    return [Table(("changed", "nearest cell", "distance", "counts as"), rows, caption, frozenset({2}), "tab-readings")]


def recipe(source: MatchFolder) -> list[Item]:
    """Regimes to paste, and where the whole recipe lies."""
    return [
        Note(source.record["regimes"], code=True),
        Note(
            f"recipe.py beside this page is a whole recipe: copy it into runs/, then nca-interp train {source.record['run']} --dry-run.",
            quiet=True,
        ),
    ]


def grounds(source: MatchFolder) -> list[Item]:
    """What the recommendation rests on, with the comparisons behind it."""
    record = source.record
    items: list[Item] = [Note(record["rests_on"])]
    if record["evidence"]:
        items.append(_behind(record["evidence"]))
    return items


def _behind(evidence: dict[str, Any]) -> Table:
    """The hypotheses of a sweep, or the comparisons of a study without one."""
    found = evidence["comparisons"]
    if all("hypothesis" in c for c in found):
        head = ("hypothesis", "arms", "gain a sd of it, nats", "95 % interval over arms", "p, corrected", "verdict")
        rows = tuple(
            (
                str(c["hypothesis"]), whole(c["arms"]), signed(c["effect"], 4), interval(c["low"], c["high"], 4), p_value(c["p_holm"]),
                str(c["verdict"]),
            )
            for c in found
        )  # fmt: skip
        caption = (
            f"Hypotheses on what gain over scratch follows in the sweep {evidence['study']!r}; the arm is the unit."
        )
        return Table(head, rows, caption, frozenset({1, 2, 3, 4}), "tab-evidence")
    rows = tuple(
        (
            str(c["domain"]), f"{c['treated']} against {c['control']}", whole(c["n"]), signed(c["effect"]),
            interval(c["low"], c["high"]), str(c["verdict"]),
        )
        for c in found
    )  # fmt: skip
    head = ("domain", "comparison", "seeds", "effect, nats", "95 % interval", "verdict")
    caption = f"Final loss of NCA settings minus scratch in study {evidence['study']!r}."
    return Table(head, rows, caption, frozenset({2, 3, 4}), "tab-evidence")


def provenance(source: MatchFolder) -> list[Item]:
    """Specification, software, machine, tables, and how to get it again."""
    made = source.record["provenance"]
    spec = tuple((k, written(v)) for k, v in flat(source.record["spec"]))
    cell = tuple((k, written(v)) for k, v in flat(source.record["recommended"]))
    facts = tuple((k.replace("_", " "), written(v)) for k, v in made.items())
    lines = [f"git checkout {made['git_commit']}"] if made.get("git_commit") else []
    return [
        Note("\n".join([*lines, made["command"]]), code=True),
        Table(("field", "value"), cell, "The recommended specification.", id="tab-cell", folded=True),
        Table(("field", "value"), spec, "The corpus's specification.", id="tab-config", folded=True),
        Table(("fact", "value"), facts, "Software, machine and command.", id="tab-machine", folded=True),
        Table(
            ("file", "SHA-256"), tuple(source.hashes().items()), "Tables beside this page.", id="tab-files", folded=True
        ),
    ]


def limits(source: MatchFolder) -> list[Item]:
    """What these numbers cannot say."""
    return [Note(text) for text in LIMITS]
