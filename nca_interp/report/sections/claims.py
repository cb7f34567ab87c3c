"""The first screen: each claim with its verdict, effect, interval and n; what was trained."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from nca_interp.report.charts.numbers import absent, fixed, interval, listing, plural, short, signed, whole
from nca_interp.report.page import ClaimBox, Claimed, Flow, Found, Item
from nca_interp.report.scheme import groups
from nca_interp.report.sections.answers import answers
from nca_interp.report.sections.outcome import missing
from nca_interp.report.tables import Tables, each

NOT_TESTED = "not tested"
"""How verdicts begin that are none."""
JUDGED = {
    "first": "primary comparison, tested alone", "corrected": "corrected over all planned comparisons", "closed": "waits for the primary comparison",
    "alone": "judged alone, not corrected", "family": "corrected within its own table",
}  # fmt: skip
"""What stands beside a verdict: how it was come to (docs/statistics.md, Claims)."""
MARKED = 6
"""Most marks beside a name in the contents."""


def claims(tables: Tables, anchors: Iterable[str]) -> list[Item]:
    """Every claim of the study. `anchors`: what a link can lead to on this page."""
    rows = tables.claims
    if rows.empty:
        return [missing("claim with a verdict", "claims.csv")]
    known, places = set(anchors), len(tables.domains) > 1
    without = rows.verdict.str.startswith(NOT_TESTED) & rows.effect.isna()
    told = rows[~without]
    found = tuple(
        Claimed(
            str(name),
            str(part.says.iloc[0]),
            str(part.source.iloc[0]),
            tuple(_found(tables, row, known, places) for row in each(part)),
        )
        for name, part in told.groupby("claim", sort=False)
    )
    untested = tuple((r.says, r.verdict, r.sentence, r.change) for r in each(rows[without]))
    return [*answers(tables), ClaimBox(found, untested)]


def tones(tables: Tables, *names: str) -> tuple[tuple[str, str], ...]:
    """Marks of the claims whose evidence stands under one of these anchors."""
    rows = tables.claims[tables.claims.evidence.isin(names) & ~tables.claims.verdict.str.startswith(NOT_TESTED)]
    return tuple((Found("", r.verdict, "", "", "").tone, f"{r.says}: {r.verdict}") for r in each(rows.head(MARKED)))


def _found(tables: Tables, row: Any, known: set[str], places: bool) -> Found:
    cells = row._asdict()
    return Found(
        tables.domain_label(row.domain) if places and row.domain else "", row.verdict, numbers(cells), row.sentence, row.change,
        JUDGED.get(row.judged, "") if not row.verdict.startswith("cannot tell") else "", row.evidence if row.evidence in known else "", bar(cells),
    )  # fmt: skip


def numbers(row: Mapping[str, Any]) -> str:
    """Effect, interval, unit and n of a claim as text; empty where there is no effect."""
    if absent(row["effect"]):
        return ""
    times = row["zero"] == 1
    effect = fixed(row["effect"]) if times else signed(row["effect"])
    seeds = plural(int(row["n"]), "seed")
    if absent(row["low"]):
        return f"{effect} {row['unit']}, no interval, {seeds}"
    return f"{effect} {row['unit']}, 95 % interval {interval(row['low'], row['high'], sign=not times)}, {seeds}"


def bar(row: Mapping[str, Any], span: tuple[float, float] | None = None) -> tuple[float, float, float, float] | None:
    """The interval and the value of no effect on a line from 0 to 100 that holds both, or `span`; None without an interval."""
    low, middle, high, zero = (row[key] for key in ("low", "effect", "high", "zero"))
    if any(absent(v) for v in (low, middle, high)):
        return None
    start, end = span or (min(low, zero), max(high, zero))
    room = 0.08 * (end - start) or 1.0
    return tuple(round(100 * (v - start + room) / (end - start + 2 * room), 2) for v in (low, high, middle, zero))


def trained(tables: Tables) -> list[Item]:
    """What was trained, a row a source: what it saw first, in which arms it went on, on which domains."""
    runs = tables.runs
    rows = []
    for names in groups(tables):
        parent = runs[(runs.stage == "ppt") & runs.regime.isin(names)]
        rows.append(
            (_source(tables, names[0], parent), _arms(tables, names), _language(tables, runs[runs.regime.isin(names)]))
        )
    caption = (
        f"{plural(len(runs), 'training run')} in {plural(tables.n_seeds, 'seed')}. Arms of a row share its synthetic stage; every arm is "
        "trained on the same rows of language, in the same order."
    )
    return [Flow(("sees first", "goes on as", "is trained on"), tuple(rows), caption)]


def _source(tables: Tables, name: str, parent: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
    if parent.empty:
        return "nothing", ("trained from scratch",)
    row = parent.iloc[0]
    return tables.label(str(row.regime)), (
        f"{short(row.tokens)} tokens a seed",
        f"{short(row.vocab_size)} different tokens",
    )


def _arms(tables: Tables, names: list[str]) -> tuple[str, tuple[str, ...]]:
    return names[0], tuple(f"{name}: {tables.label(name)}" for name in names[1:])


def _language(tables: Tables, runs: pd.DataFrame) -> tuple[str, tuple[str, ...]]:
    pt = runs[runs.stage == "pt"]
    lines = [
        f"{tables.domain_label(str(domain))}: {short(part.tokens.max())} tokens, {whole(len(part))} runs"
        for domain, part in pt.groupby("domain", sort=False)
    ]
    ft = runs[runs.stage == "ft"]
    if len(ft):
        lines.append(f"fine-tuned: {listing(tables.domain_label(str(d)) for d in ft.domain.unique())}")
    return plural(pt.domain.nunique(), "domain"), tuple(lines)
