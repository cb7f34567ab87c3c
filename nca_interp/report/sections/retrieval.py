"""Verbatim retrieval over training, by length and distance, and the loss by position and by token frequency."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.report.charts.bands import bands
from nca_interp.report.charts.numbers import DASH, fixed, interval, listing, plural, short, signed, whole
from nca_interp.report.page import Chart, Choice, Figure, Item, Section, Table
from nca_interp.report.sections.outcome import NATS, missing
from nca_interp.report.tables import Tables, each

GAIN, OVER = "gain", "gain over scratch"
CELL = ["material", "length", "distance"]
MEASURED = (
    "A list of nouns or of random tokens is read, then a filler, then the list again. Gain: loss of the second presentation where "
    "another list came first, less its loss where the list itself did: the same tokens at the same positions after the same filler. "
    "The first item of a list is not counted."
)


def section(tables: Tables) -> tuple[Section, ...]:
    """Retrieval, and where in a row and on which tokens the loss lies."""
    return (Section("retrieval", "Is what was read before retrieved?", (*_retrieval(tables), *_profiles(tables))),)


def _retrieval(tables: Tables) -> list[Item]:
    rows = _rows(tables, tables.retrieval, tables.retrieval_seeds)
    rows = rows[rows.quantity == GAIN]
    if rows.empty:
        return [missing("list that was read twice", "retrieval.csv")]
    rows = rows.assign(cell=_cells(rows))
    places, items = _places(tables, rows), list[Item]()
    if rows.groupby(["regime", "domain", "stage"]).step.nunique().max() > 1:
        items.append(_course(tables, rows, places))
    ends = _ends(rows)
    if len(rows.cell.unique()) > 1:
        items += _by_size(tables, ends, places)
    return [*items, _table(tables, ends)]


def _rows(tables: Tables, single: pd.DataFrame, seeds: pd.DataFrame) -> pd.DataFrame:
    """Over seeds with intervals over them; of checkpoints that name no seed, each with its intervals over lists."""
    rows = seeds if len(seeds) else single
    return rows[rows.regime.isin(tables.main)]


def _cells(rows: pd.DataFrame) -> list[str]:
    return [f"{whole(n)} items, {whole(d)} tokens apart" for n, d in zip(rows.length, rows.distance, strict=True)]


def _places(tables: Tables, rows: pd.DataFrame) -> dict[str, str]:
    """Domain -> title, of those with a row; one of no name where runs name none."""
    found = {d: t for d, t in tables.domains.items() if (rows.domain == d).any()}
    return found or {"": ""}


def _here(rows: pd.DataFrame, domain: str) -> pd.DataFrame:
    return rows[(rows.domain == domain) | (rows.stage == "ppt")] if domain else rows


def _reference(rows: pd.DataFrame) -> tuple[str, str]:
    """Material and cell that are shown first: nouns where there are some, and of what most checkpoints have, the cell that lengths
    and distances are compared at: it shares its length or distance with the most others."""
    nouns = (rows.material == "nouns").any()
    known = rows[rows.material == "nouns"] if nouns else rows
    counts = known.groupby(["length", "distance", "cell"], as_index=False).size()
    common = counts[counts["size"] == counts["size"].max()]
    shared = [int((common.length == r.length).sum() + (common.distance == r.distance).sum()) for r in each(common)]
    return str(known.material.iloc[0]), str(common.cell.iloc[shared.index(max(shared))])


def _course(tables: Tables, rows: pd.DataFrame, places: dict[str, str]) -> Figure:
    placed = _since_swap(tables, rows).rename(columns={"at": "x"})
    material, cell = _reference(rows[rows.stage != "ppt"] if (rows.stage != "ppt").any() else rows)
    where = "datum.material == retrieved && datum.cell == cell"
    keep = ["regime", "stage", "material", "cell", "x", "value", "low", "high", "n"]
    title = "tokens since the embedding swap" if tables.collection is None else "training tokens"
    views = tuple(
        Chart(
            bands(_here(placed, d)[keep], tables.main, title, f"gain, {NATS}", where=where, swap=tables.collection is None),
            f"Retrieval over training, {label}", label,
        )
        for d, label in places.items()
    )  # fmt: skip
    choices = (
        Choice("retrieved", "Lists of", _first(material, rows.material)),
        Choice("cell", "Length and distance", _first(cell, rows.cell)),
    )
    encoding = f"{MEASURED} Line: mean over seeds; band: its 95 % t-interval (none for one seed)."
    shown = rows[(rows.material == material) & (rows.cell == cell)]
    return Figure("fig-retrieval", _finding(tables, _ends(shown), material, cell), encoding, rows.drop(columns="cell"), views, choices=choices)  # fmt: skip


def _since_swap(tables: Tables, rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with their place `at` on the axis of training: pre-pre-training ends at 0, language begins there."""
    if tables.collection is not None:
        return rows.assign(at=rows.tokens if rows.tokens.notna().all() else rows.step)
    length = tables.runs[tables.runs.stage == "ppt"].groupby("regime").tokens.max()
    offset = rows.regime.map(length).where(rows.stage == "ppt", 0.0).fillna(0.0)
    return rows.assign(at=rows.tokens - offset)


def _first(first: str, values: pd.Series) -> tuple[tuple[str, str], ...]:
    return tuple((v, v) for v in sorted(values.unique(), key=lambda v: (v != first, v)))


def _ends(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the last step of each regime, domain and stage."""
    last = rows.groupby(["regime", "domain", "stage"]).step.transform("max")
    return rows[rows.step == last]


def _language(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows.stage != "ppt"] if (rows.stage != "ppt").any() else rows


def _finding(tables: Tables, ends: pd.DataFrame, material: str, cell: str) -> str:
    told = [
        f"{r.regime} {signed(r.value)} {interval(r.low, r.high)}"
        for r in each(_language(ends).drop_duplicates("regime"))
    ]
    return f"Gain of the second presentation at the end, {material}, {cell}, nats a token: {listing(told)}."


def _by_size(tables: Tables, ends: pd.DataFrame, places: dict[str, str]) -> list[Item]:
    rows = _language(ends)
    material, cell = _reference(rows)
    reference = rows[rows.cell == cell].iloc[0]
    views = []
    for domain, label in places.items():
        part = _here(rows, domain)
        for axis, other, words in (
            ("length", "distance", "items of a list"),
            ("distance", "length", "tokens between the lists"),
        ):
            drawn = part[part[other] == reference[other]].rename(columns={axis: "x"})
            if drawn.x.nunique() > 1:
                drawn = drawn[["regime", "stage", "material", "x", "value", "low", "high", "n"]]
                chart = bands(drawn, tables.main, words, f"gain, {NATS}", where="datum.material == sized", log=True)
                views.append(Chart(chart, f"Retrieval by {axis}, {label}", f"{label}: by {axis}".removeprefix(": ")))
    if not views:
        return []
    encoding = (
        f"{MEASURED} By length at {whole(reference.distance)} tokens between the lists, by distance at {whole(reference.length)} items. Last "
        "checkpoint; mean over seeds with its 95 % t-interval."
    )
    found = rows.groupby("material").value.agg(["min", "max"])
    told = [f"{name} {signed(r['min'])} to {signed(r['max'])}" for name, r in found.iterrows()]
    return [
        Figure(
            "fig-retrieval-size", f"Gain at the end over regimes, lengths and distances, nats a token: {listing(told)}.", encoding,
            rows.drop(columns="cell"), tuple(views), choices=(Choice("sized", "Lists of", _first(material, rows.material)),),
        )
    ]  # fmt: skip


def _table(tables: Tables, ends: pd.DataFrame) -> Table:
    source = tables.retrieval_seeds if len(tables.retrieval_seeds) else tables.retrieval
    keys = ["domain", "regime", "stage", "step", *CELL]
    wide: Any = source.set_index([*keys, "quantity"])[["value", "low", "high"]]
    wide = wide[~wide.index.duplicated()]
    body = []
    for r in each(ends):
        at = (r.domain, r.regime, r.stage, r.step, r.material, r.length, r.distance)
        relative, control = (_value(wide, at, q) for q in ("relative", "relative_control"))
        over = wide.loc[(*at, OVER)] if (*at, OVER) in wide.index else None
        body.append((
            tables.domain_label(r.domain) if r.domain else DASH, r.regime, r.stage or DASH, whole(r.step), r.material, whole(r.length),
            whole(r.distance), signed(r.value), interval(r.low, r.high), fixed(relative, 0), fixed(control, 0),
            DASH if over is None else signed(over.value), DASH if over is None else interval(over.low, over.high), whole(r.n),
        ))  # fmt: skip
    head = (
        "domain", "regime", "stage", "step", "lists of", "items", "apart", "gain, nats", "95 % interval", "relative, %", "control, %",
        "over scratch", "95 % interval", "n",
    )  # fmt: skip
    unit = "seeds" if len(tables.retrieval_seeds) else "lists"
    caption = (
        "Last checkpoint. Relative: 100 times the loss of the second presentation over that of the first, as in the literature "
        "(Armeni et al. 2022, arXiv 2210.13569); control: the same where another list came first, which is what repetition has nothing to "
        f"do with. Over scratch: difference of the gains, seed by seed. Exploration: no correction for many comparisons. n: {unit}."
    )
    return Table(
        head, tuple(body), caption, frozenset({3, 5, 6, 7, 8, 9, 10, 11, 12, 13}), "tab-retrieval", folded=True
    )


def _value(wide: Any, at: tuple[object, ...], quantity: str) -> float | None:
    return float(wide.loc[(*at, quantity)].value) if (*at, quantity) in wide.index else None


def _profiles(tables: Tables) -> list[Item]:
    rows = _language(_rows(tables, tables.profiles, tables.profile_seeds))
    if rows.empty:
        return []
    ends, views = _ends(rows), []
    for domain, label in _places(tables, ends).items():
        part = _here(ends, domain)
        for by, words in (("position", "tokens before"), ("frequency", "class of tokens, 1 the commonest")):
            drawn = part[part.by == by]
            if drawn.bin.nunique() > 1:
                drawn = drawn.assign(x=drawn.low_edge if by == "position" else drawn.bin + 1)
                drawn = drawn[["regime", "stage", "x", "value", "low", "high", "n"]]
                chart = bands(drawn, tables.main, words, f"loss, {NATS}", log=by == "position")
                views.append(Chart(chart, f"Loss by {by}, {label}", f"{label}: by {by}".removeprefix(": ")))
    if not views:
        return []
    encoding = (
        "Validation rows at the last checkpoint, mean over seeds with its 95 % t-interval. By position: how many tokens come before, in bins "
        "that double. By frequency: tokens in classes that each make up a fifth of the training tokens, the commonest first; "
        "the table of the figure has their limits in occurrences a million."
    )
    return [Figure("fig-profile", _profile_finding(ends), encoding, ends, tuple(views))]


def _profile_finding(ends: pd.DataFrame) -> str:
    told = []
    for regime, rows in ends[ends.by == "position"].groupby("regime", sort=False):
        first, last = rows.sort_values("bin").value.iloc[[0, -1]]
        told.append(f"{regime} {fixed(first)} to {fixed(last)}")
    until = short(ends[ends.by == "position"].high_edge.max())
    return f"Loss from the first position to the last bin (up to {until} tokens before), {plural(len(told), 'regime')}: {listing(told)}."
