"""What the heads that pre-pre-training grew mediate of its gain: shares beside random heads, the rules, and hindered training."""

from __future__ import annotations

import pandas as pd

from nca_interp.report.charts import effects
from nca_interp.report.charts.numbers import DASH, fixed, interval, p_value, percent, plural, signed, whole
from nca_interp.report.page import Chart, Figure, Item, Note, Section, Table
from nca_interp.report.tables import Tables, each

CHOSEN, RANDOM = "heads of the rule", "random heads of the same layers"
WAYS = {"without": "re-initialised at the swap", "only": "alone carried over", "ablated": "ablated at the end"}
MEASURES = {
    "val_loss": "validation loss",
    "in_context_learning": "in-context learning",
    "retrieval": "verbatim retrieval",
}
STAGES = {"ppt": "the synthetic stage", "pt": "language", "ppt pt": "both stages"}
INTRO = (
    "Which heads are meant was decided by a rule at the end of the synthetic stage, before any arm was trained. A share is what the heads "
    "move of the difference between full transfer and scratch: lost where they are re-initialised, kept where they alone are carried over, "
    "lost where they are ablated at the end of language. Random sets have as many heads in each layer."
)


def sections(tables: Tables) -> tuple[Section, ...]:
    """The section, where a study has an arm that asks for it."""
    items = [*_shares(tables), *_questions(tables), *_rules(tables), *_blinded(tables)]
    return (Section("mediation", "What the carried heads mediate", tuple(items), INTRO),) if items else ()


def _shares(tables: Tables) -> list[Item]:
    known = tables.mediation[tables.mediation.share.notna() & tables.mediation.share_low.notna()]
    if known.empty:
        told = tables.mediation[tables.mediation.measure == "val_loss"]
        return [Note(str(sentence)) for sentence in told.sentence]
    views: list[Chart] = []
    drawn: list[pd.DataFrame] = []
    for (domain, measure), part in known.groupby(["domain", "measure"], sort=False):
        rows, seeds = _points(tables, part)
        title = f"{tables.domain_label(str(domain))}, {MEASURES[str(measure)]}"
        chart = effects.forest(
            rows, seeds, [CHOSEN, RANDOM], "share of the difference between full transfer and scratch"
        )
        views.append(Chart(chart, f"Shares that heads mediate, {title}", title))
        drawn.append(seeds.assign(domain=str(domain), measure=str(measure)))
    encoding = (
        "Filled: mean over seeds, with Fieller's 95 % interval of the ratio of means; rings: single seeds, and single random sets, each over "
        "the mean gain. Zero: nothing of the gain, one: all of it. Drawn only where the gain itself is certain."
    )
    first = known[(known.measure == "val_loss") & (known.way != "ablated")]
    finding = " ".join((first if len(first) else known).sentence)
    data = pd.concat(drawn)[["domain", "measure", "name", "regime", "seed", "difference"]].rename(
        columns={"regime": "heads", "difference": "share"}
    )
    return [Figure("fig-mediation", finding, encoding, data, tuple(views), swatches=False)]


def _points(tables: Tables, part: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What a forest takes: the mean of each question and of its random sets, and their single seeds."""
    rows, seeds = [], []
    several = part.regime.nunique() > 1
    for r in each(part):
        name = f"{r.probe}, {WAYS.get(r.way, r.way)}" + (f", {tables.label(r.regime)}" if several else "")
        of = f"{name}: random"
        rows += [
            {"name": name, "regime": CHOSEN, "effect": r.share, "low": r.share_low, "high": r.share_high},
            {"name": of, "regime": RANDOM, "effect": r.random_share, "low": None, "high": None},
        ]
        own = tables.mediation_seeds
        for key in ("domain", "regime", "rule", "way", "measure"):
            own = own[own[key] == getattr(r, key)]
        chosen = own.number == 0
        seeds.append(
            pd.DataFrame({
                "name": chosen.map({True: name, False: of}), "regime": chosen.map({True: CHOSEN, False: RANDOM}),
                "seed": own.seed, "difference": own.moved / r.gain,
            })
        )  # fmt: skip
    frame = pd.DataFrame(rows).astype({"low": float, "high": float})
    return frame, pd.concat(seeds, ignore_index=True)


def _questions(tables: Tables) -> list[Item]:
    if tables.mediation.empty:
        return []
    head = (
        "domain", "measure", "heads", "how", "seeds", "gain", "moved, nats", "share", "95 % interval", "random", "sets", "p, corrected", "verdict",
    )  # fmt: skip
    body = tuple(
        (
            tables.domain_label(r.domain), MEASURES.get(r.measure, r.measure), f"{r.probe}, {tables.label(r.regime)}", WAYS.get(r.way, r.way),
            f"{whole(r.n)} of {whole(r.planned)}", f"{signed(r.gain)} {interval(r.gain_low, r.gain_high)}",
            f"{signed(r.moved)} {interval(r.moved_low, r.moved_high)}", fixed(r.share, 2), interval(r.share_low, r.share_high, 2, sign=False),
            fixed(r.random_share, 2), whole(r.sets), p_value(r.p_adjusted), r.verdict or DASH,
        )
        for r in each(tables.mediation)
    )  # fmt: skip
    caption = (
        "p: chance that one set of each seed's, the rule's and the random ones, moves as much, summed over seeds; validation loss of trained "
        "arms corrected together (Holm), the rest exploration (Benjamini and Hochberg). No share where the gain may be zero."
    )
    return [Table(head, body, caption, frozenset({4, 5, 6, 7, 8, 9, 10, 11}), "tab-mediation")]


def _rules(tables: Tables) -> list[Item]:
    if tables.head_rules.empty:
        return []
    head = (
        "pre-pre-training",
        "rule",
        "heads (layer.head)",
        "best score",
        "level",
        "above",
        "random sets",
        "what was found",
    )
    body = tuple(
        (
            r.run, r.words, r.heads or "none: left out", fixed(r.best), fixed(r.level), whole(r.above), whole(r.sets),
            f"{plural(int(r.below), 'head')} below the level, marked: {r.sentence}" if r.below else r.sentence,
        )
        for r in each(tables.head_rules)
    )  # fmt: skip
    caption = "Decided once, at the last step of the synthetic stage; level: what the highest head of a random model stays below (docs/emergence.md)."
    return [Table(head, body, caption, frozenset({3, 4, 5, 6}), "tab-head-rules", folded=True)]


def _blinded(tables: Tables) -> list[Item]:
    if tables.blinded.empty:
        return []
    head = (
        "domain",
        "regime",
        "hidden in",
        "seeds",
        "gain",
        "gain, hindered",
        "removed",
        "share removed",
        "p (Holm)",
        "verdict",
    )
    body = tuple(
        (
            tables.domain_label(r.domain), tables.label(r.regime), STAGES.get(r.stages, r.stages), f"{whole(r.n)} of {whole(r.planned)}",
            f"{signed(r.gain)} {interval(r.gain_low, r.gain_high)}", f"{signed(r.hindered)} {interval(r.hindered_low, r.hindered_high)}",
            f"{signed(r.removed)} {interval(r.removed_low, r.removed_high)}",
            f"{percent(r.share, 0)} {interval(r.share_low, r.share_high, 2, sign=False)}", p_value(r.p_adjusted), r.verdict or DASH,
        )
        for r in each(tables.blinded)
    )  # fmt: skip
    caption = (
        "The reverse: no head attends to the token before its own, of which an induction head's partner consists. Gain: final loss of "
        "scratch less that of the regime, both with the mask or both without; losses of hindered models are with the mask they were "
        "trained with. The mask takes more than induction heads, so that a gain that vanishes is not theirs alone."
    )
    return [Table(head, body, caption, frozenset({3, 4, 5, 6, 7, 8}), "tab-blinded")]
