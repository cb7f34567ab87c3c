"""The heads that pre-pre-training grew, after the swap: courses by kind of head and arm, and what became of each."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts.bands import fates as courses
from nca_interp.report.charts.numbers import DASH, fixed, listing, plural, signed, whole
from nca_interp.report.charts.timelines import SINCE_SWAP
from nca_interp.report.page import Chart, Choice, Figure, Item, Section, Table
from nca_interp.report.sections.outcome import NATS, missing
from nca_interp.report.tables import Tables, each

SHARES = {
    "score": "score", "input": "previous-token input", "matching": "QK matching", "copying": "OV copying", "qk_norm": "|W_QK|",
    "ov_norm": "|W_OV|",
}  # fmt: skip
"""Quantities that are drawn as a share of what they were at the end of pre-pre-training."""
CIRCUIT = ("input", "matching", "copying")
EFFECT, BOUND = "effect of losing it", "an ordinary head's (95 % bound)"
PANELS = 12
"""Arms that are drawn."""


def section(tables: Tables) -> tuple[Section, ...]:
    """Courses and fates; nothing for checkpoints from elsewhere, which name no pre-pre-training."""
    if tables.collection is not None:
        return ()
    return (Section("survival", "What becomes of the heads that pre-pre-training grew", (*_items(tables),)),)


def _items(tables: Tables) -> list[Item]:
    rows = tables.survival[tables.survival.run.isin(tables.finished)]
    if rows.empty or tables.fates.empty:
        return [missing("head that pre-pre-training grew and language went on from", "fates.csv")]
    return [*_figures(tables, rows), _seeds(tables), _fates(tables)]


def _arms(tables: Tables, rows: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(regime, domain, title) of each arm, those of one pre-pre-training together."""
    keys = (
        rows[["ppt_run", "regime", "domain"]].drop_duplicates(["regime", "domain"]).sort_values(["ppt_run", "domain"])
    )
    return [(r.regime, r.domain, f"{tables.label(r.regime)}, {tables.domain_label(r.domain)}") for r in each(keys)][
        :PANELS
    ]


def _figures(tables: Tables, rows: pd.DataFrame) -> list[Item]:
    share = rows[rows.quantity.isin(list(SHARES)) & (rows.start.abs() > 1e-9)]
    share = share[(share.probe == "induction") | ~share.quantity.isin(CIRCUIT)]
    share = share.assign(value=share.value / share.start, name=share.quantity.map(SHARES))
    effect = rows[rows.quantity == "effect"]
    both = pd.concat([effect.assign(name=EFFECT), effect.assign(name=BOUND, value=effect.bound)])
    probes = sorted(rows.probe.unique(), key=lambda p: (p != "induction", p))
    figures: list[Item] = []
    for ident, frame, names, unit, finding, encoding, choice in (
        ("fig-survival", share, list(SHARES.values()), "share of the end of PPT", _finding(tables),
         "Mean over the heads of a kind and seeds, each divided by what it was at the end of pre-pre-training. Of induction heads: the "
         "attention of their partner in an earlier layer to the previous token; the attention that W_QK would give with a perfect such "
         "input; the logit that W_OV would add with perfect attention. Zero: nothing is left.", "surviving"),
        ("fig-survival-effect", both, [EFFECT, BOUND], NATS, _used(tables),
         "Loss of random tokens that come again with the head's output replaced by its mean, less that without, mean over heads and seeds. A "
         "head is used where this is certainly above zero and above what an ordinary head of the same checkpoint reaches, at its last two.",
         "losing"),
    ):  # fmt: skip
        frame = frame[frame.value.notna()]
        if frame.empty:
            continue
        mean = frame.groupby(["regime", "domain", "probe", "name", "tokens"], as_index=False).agg(
            value=("value", "mean"), n=("value", "size")
        )
        views = []
        for regime, domain, title in _arms(tables, frame):
            part = mean[(mean.regime == regime) & (mean.domain == domain)].rename(columns={"tokens": "x"})
            chart = courses(part, names, SINCE_SWAP, unit, f"datum.probe == {choice}")
            views.append(Chart(chart, f"Heads of pre-pre-training over language, {title}", title))
        choices = (Choice(choice, "Heads of kind", tuple((p, p) for p in probes if p in set(frame.probe))),)
        data = frame[["run", "ppt_run", "probe", "layer", "head", "name", "step", "tokens", "value", "low", "high"]]
        figures.append(Figure(ident, finding, encoding, data, tuple(views), choices=choices, swatches=False))
    return figures


def _finding(tables: Tables) -> str:
    counts = [f"{n} {word}" for word, n in tables.fates.fate.value_counts().items()]
    return f"Of {plural(len(tables.fates), 'head')} that were followed into language: {listing(counts)}."


def _used(tables: Tables) -> str:
    told = [
        f"{regime} {int(rows.fate.str.contains('used').sum())} of {len(rows)}"
        for regime, rows in tables.fates.groupby("regime", sort=False)
    ]
    return f"Heads that are used at the end of language: {listing(told)}."


def _seeds(tables: Tables) -> Table:
    head = (
        "domain",
        "regime",
        "grown by",
        "heads of kind",
        "heads",
        "lost",
        "kept",
        "used",
        "seeds that agree",
        "verdict",
    )
    body = tuple(
        (
            tables.domain_label(r.domain), r.regime, r.ppt_regime, r.probe, whole(r.heads), whole(r.lost), whole(r.kept), whole(r.used),
            f"{whole(r.agree)} of {whole(r.seeds)}", r.verdict,
        )
        for r in each(tables.fate_seeds)
    )  # fmt: skip
    caption = (
        "By arm and kind of head. Regimes that go on from one pre-pre-training follow the same heads. A verdict: the 95 % exact interval of the "
        "share of seeds with that fate lies above one half; six seeds that agree are the fewest."
    )
    return Table(head, body, caption, frozenset(range(4, 8)), "tab-fate-seeds", folded=True)


def _fates(tables: Tables) -> Table:
    head = (
        "run", "heads of", "head", "kind", "score, end of PPT", "level", "at the end", "lost after step", "by step", "effect, nats", "ordinary",
        "fate", "first to lose half",
    )  # fmt: skip
    body = tuple(
        (
            r.run, r.ppt_run, f"{whole(r.layer)}.{whole(r.head)}", r.probe, fixed(r.start), fixed(r.level), fixed(r.end),
            "the swap" if r.lost_state == "from start" else whole(r.lost_after) if r.lost_state == "reached" else DASH,
            whole(r.lost_by), signed(r.effect), signed(r.bound), r.fate, r.first_part or DASH,
        )
        for r in each(tables.fates)
    )  # fmt: skip
    caption = (
        "The heads above the level of their probe at the end of pre-pre-training, at most two a probe. Lost: the score (median of three) is below "
        "the level at two checkpoints in a row. First to lose half: the part of the circuit that certainly fell to half of what it was before "
        "the others; between checkpoints nothing is known, so often none can be said to."
    )
    return Table(head, body, caption, frozenset(range(4, 11)), "tab-fates", folded=True)
