"""The page of a phase diagram: small maps of the effect over the factors, uncertain cells marked, and every cell in a table."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from nca_interp.phase import TABLE, maps_of
from nca_interp.readers import damaged, read_cells
from nca_interp.report.charts.numbers import absent, interval, p_value, plural, short, signed, whole
from nca_interp.report.charts.theme import signal, sized
from nca_interp.report.page import Chart, Figure, Item, Note, Page, Section, Table
from nca_interp.report.pages.folder import Folder
from nca_interp.report.sections.method import flat, written
from nca_interp.report.tables import each

ROW = 46
"""Pixels of a row of a map: an effect and a number of seeds."""
NUMBERS = ("n", "effect", "low", "high", "p", "p_holm", "next", "next_flops")
LEAST_SCALE = 1e-9
LIMITS = (
    "The sign of a cell is that of these corpora, this validation set, this budget and schedule; no interval speaks of others.",
    "Each cell's sign is false in at most 5 % of cases over all its looks together, whatever the rule that stopped it. Over all cells together "
    "that is not so: of cells without any effect one in twenty may show a sign. The column `p, all cells` (Holm) holds for all of them together.",
    "A cell that stopped early was caught at a moment when its effect looked large: such effects are overestimated on average. Read the interval.",
    "Cells of one network share runs (scratch with the same embeddings, the synthetic stage of all swap policies), so neighbours err together.",
    "Differences of seeds are taken as independent and normal. `negligible` means within the declared margin, not nothing.",
)


class PhaseFolder(Folder):
    """The folder of one phase diagram."""

    file, report, command = "phase.json", "phase", "nca-interp train RECIPE, with a recipe of a phase diagram"
    kind = "phase"

    @classmethod
    def is_one(cls, folder: Path) -> bool:
        """Whether a folder holds a phase diagram."""
        return (folder / cls.file).is_file()

    @property
    def factors(self) -> list[str]:
        """What varies."""
        return list(self.record["phase"]["factors"])

    def cells(self) -> pd.DataFrame:
        """One row a cell, in the recipe's order."""
        path = self.folder / "tables" / "phase.csv"
        mend = "written again by the command that trains it"
        if not path.is_file():
            raise damaged(path, "no such table", mend)
        frame = read_cells(path, [*TABLE, *self.factors], mend)
        for name in NUMBERS:
            frame[name] = pd.to_numeric(frame[name].replace("", None))
        return frame


def phase_page(source: PhaseFolder, sections: tuple[Section, ...]) -> Page:
    """A page around `sections`."""
    record, cells = source.record, source.cells()
    counts = cells.sign.value_counts()
    looks = record["looks"]
    facts = (
        ("Cells", whole(len(cells))),
        ("Sign", ", ".join(f"{counts.get(word, 0)} {word}" for word in ("helps", "harms", "negligible", "uncertain"))),
        ("Seeds", f"{int(cells.n.min())} to {int(cells.n.max())} so far, {looks['last']} at most"),
        (
            "Trained",
            f"{short(record['tokens'])} tokens, {record['spent'] / record['phase']['budget']:.0%} of the budget",
        ),
    )
    cautions = []
    if lost := int((cells.state == "lost").sum()):
        cautions.append(
            f"{plural(lost, 'cell')} lost a run (it diverged) and will get no further seed; its sign rests on the seeds before."
        )
    if (waiting := int(cells.state.isin(["first seeds", "more seeds"]).sum())) > 0:
        cautions.append(
            f"{plural(waiting, 'cell')} would still get seeds: the same command goes on, with a larger budget where it is spent."
        )
    return source.page(
        str(record["phase"]["title"]), facts, tuple(cautions), sections, {"study": f"phase-{source.folder.name}", "warnings": cautions, **record}
    )  # fmt: skip


def maps(source: PhaseFolder) -> list[Item]:
    """A small map for each combination of the outer factors."""
    cells = source.cells()
    place = maps_of(tuple(source.factors))
    cells["row"] = (
        [" | ".join(values) for values in zip(*(cells[name] for name in place.rows), strict=True)] if place.rows else ""
    )
    cells["column"] = cells[place.x]
    cells["settled"] = cells.sign != "uncertain"
    cells["shown"] = [signed(value) if not absent(value) else "no seed" for value in cells.effect]
    cells["seeds"] = [f"n {int(one.n)}{'' if one.settled else ', uncertain'}" for one in each(cells)]
    largest = max(float(cells.effect.abs().max()) if cells.effect.notna().any() else 0.0, LEAST_SCALE)
    charts = [
        Chart(
            _map(
                cells[(cells[list(place.panels)] == list(levels)).all(axis=1)], place.x, ", ".join(place.rows), largest
            ),
            f"Effect by {place.x} and {', '.join(place.rows)}: {_panel(place.panels, levels)}",
            _panel(place.panels, levels),
        )
        for levels in product(*(cells[name].unique() for name in place.panels))
        if (cells[list(place.panels)] == list(levels)).all(axis=1).any()
    ]
    known = cells[cells.settled]
    finding = (
        f"Of {plural(len(cells), 'cell')} {int((known.sign == 'helps').sum())} help, {int((known.sign == 'harms').sum())} harm, "
        f"{int((known.sign == 'negligible').sum())} differ negligibly, {len(cells) - len(known)} are uncertain."
    )
    encoding = (
        "Final validation loss of the regime minus that of its control, nats a token, mean over seeds: below zero (blue) the synthetic "
        "stage helps, above zero (red) it harms; the colour is full at the largest effect of the page. n: seeds. Dashed and struck "
        "through: the sign is uncertain. Point at a cell for its interval, which holds over all looks together."
    )
    data = cells.drop(columns=["row", "column", "settled", "shown", "seeds"])
    return [Figure("fig-phase", finding, encoding, data, tuple(charts), columns=2, swatches=False)]


def _panel(factors: tuple[str, ...], levels: tuple[str, ...]) -> str:
    return ", ".join(f"{factor} {level}" for factor, level in zip(factors, levels, strict=True))


def _map(cells: pd.DataFrame, x_title: str, y_title: str, largest: float) -> Any:
    """Cells coloured by effect, with effect and number of seeds in words; uncertain ones dashed, with a stroke through them."""
    axis: dict[str, Any] = {"ticks": False, "domain": False, "labelLimit": 130}
    columns, rows = list(dict.fromkeys(cells.column)), list(dict.fromkeys(cells.row))
    x = alt.X("column:N", title=x_title, sort=columns, axis=alt.Axis(labelAngle=0, **axis))
    y = alt.Y("row:N", title=y_title or None, sort=rows, axis=alt.Axis(**axis))
    tip = [
        "cell:N", alt.Tooltip("sign:N"), alt.Tooltip("state:N"), alt.Tooltip("n:Q", title="seeds"),
        *(alt.Tooltip(f"{name}:Q", format="+.4f") for name in ("effect", "low", "high")), alt.Tooltip("p:Q", format=".3g"),
    ]  # fmt: skip
    base = alt.Chart(cells)
    unsure = base.transform_filter("!datum.settled")
    colours = [{"expr": name} for name in ("pal[1]", "bg", "pal[4]")]
    scale = alt.Scale(domain=[-largest, 0, largest], range=colours, clamp=True, interpolate="rgb")
    color = alt.Color("effect:Q", legend=None, scale=scale)
    tone = alt.ExprRef(f"isValid(datum.effect) && abs(datum.effect) > {0.6 * largest} ? bg : fg")
    layers = [
        base.mark_rect(aria=False, stroke=signal("bg"), strokeWidth=2).encode(x, y, color, tooltip=tip),
        unsure.mark_rect(aria=False, fillOpacity=0, stroke=signal("mut"), strokeWidth=1.4, strokeDash=[4, 3]).encode(
            x, y
        ),
        unsure.mark_text(aria=False, text="\u2571", fontSize=34, opacity=0.28, color=signal("mut")).encode(x, y),
        base.mark_text(fontSize=12, dy=-7, color=tone).encode(x, y, text=alt.Text("shown:N")),
        base.mark_text(fontSize=10.5, dy=8, color=tone).encode(x, y, text=alt.Text("seeds:N")),
    ]
    return sized(alt.layer(*layers), ROW * len(rows))


def every_cell(source: PhaseFolder) -> list[Item]:
    """The table of all cells."""
    names = source.factors
    rows = tuple(
        (
            *(str(row[name]) for name in names), whole(row["n"]), signed(row["effect"]), interval(row["low"], row["high"]), p_value(row["p"]),
            p_value(row["p_holm"]), _state(row),
        )
        for row in source.cells().to_dict("records")
    )  # fmt: skip
    head = (*names, "seeds", "effect, nats", "95 %, all looks", "p, all looks", "p, all cells", "sign")
    looks = source.record["looks"]
    caption = (
        f"Paired differences of seeds; a look after each of seeds {looks['first']} to {looks['last']} at {looks['level']:.2%}, which is "
        f"{looks['alpha']:.0%} over all of them. The last column: the sign, and whether the cell waits for another seed."
    )
    first = len(names)
    return [Table(head, rows, caption, frozenset(range(first, first + 5)), "tab-cells")]


def _state(row: dict[Any, Any]) -> str:
    """The sign, and what becomes of the cell."""
    if row["lost"]:
        return f"{row['sign']}; lost: {row['lost']}"
    if row["state"] == "settled":
        return str(row["sign"])
    return f"{row['sign']}; {row['state']}" + ("" if absent(row["next"]) else f", place {int(row['next'])}")


def limits(source: PhaseFolder) -> list[Item]:
    """What these signs cannot say."""
    return [Note(text) for text in LIMITS]


def provenance(source: PhaseFolder) -> list[Item]:
    """Studies, software, machine, tables, and how to get it again."""
    made, phase = source.record["provenance"], source.record["phase"]
    lines = [f"git checkout {made['git_commit']}"] if made.get("git_commit") else []
    studies = tuple(
        (study["name"], whole(len(study["regimes"])), ", ".join(f"{k} {written(v)}" for k, v in flat(study["model"])), str(source.folder / study["name"]))
        for study in phase["studies"]
    )  # fmt: skip
    facts = tuple((k.replace("_", " "), written(v)) for k, v in made.items())
    return [
        Note("\n".join([*lines, made["command"]]), code=True),
        Table(
            ("study", "regimes", "network", "folder"),
            studies,
            "Each folder is a study of its own.",
            id="tab-studies",
            folded=True,
        ),
        Table(("fact", "value"), facts, "Software, machine and command.", id="tab-machine", folded=True),
        Table(
            ("file", "SHA-256"), tuple(source.hashes().items()), "Tables beside this page.", id="tab-files", folded=True
        ),
    ]
