"""What a reader asks first, answered from the tables in a sentence or two: does it help, which heads are there and needed, what to run."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.report.charts.numbers import absent, fixed, listing, plural, signed
from nca_interp.report.page import Answer, Answers
from nca_interp.report.tables import SCRATCH, Tables, each

HELPS = {
    "better": ("Yes, in this setting", "better"),
    "worse": ("No, it hurts in this setting", "worse"),
    "equivalent": ("No difference that matters", "equivalent"),
    "inconclusive": ("Not shown either way", "inconclusive"),
}
INTERIM, UNKNOWN = ("Not finished yet", "none"), ("Cannot be told", "none")
FIRST_PROBES = ("nca_stencil", "induction", "dyck_opener", "previous_token")
"""Kinds of head that are told of before others: those that do what their source asks for."""
SEVERAL = 3
"""Most things of a kind that are told in one answer; the page below holds all."""


def answers(tables: Tables) -> list[Answers]:
    """The three answers; none where the study has nothing to compare."""
    if tables.contrasts.empty and tables.claims.empty:
        return []
    return [Answers((_helps(tables), _heads(tables), _more(tables)))]


def _deciding(tables: Tables) -> pd.DataFrame:
    """The comparison that the study is about, on every domain, the primary one first."""
    rows = tables.contrasts[tables.contrasts.metric == "val_loss"]
    first = rows[rows.primary]
    if first.empty:
        first = rows[(rows.treated == tables.reference) & (rows.control == SCRATCH)]
    if first.empty:
        return first
    same = rows[(rows.treated == first.treated.iloc[0]) & (rows.control == first.control.iloc[0])]
    return same.sort_values("primary", ascending=False, kind="stable")


def _helps(tables: Tables) -> Answer:
    question, rows = "Does it help, and how sure is that?", _deciding(tables)
    if rows.empty:
        return Answer(question, *UNKNOWN, ("No comparison with scratch was planned.",), "effects")
    row = next(each(rows))
    verdict = str(row.verdict)
    word, tone = INTERIM if "interim" in verdict else HELPS.get(verdict.split(",")[0].split(" ")[0], UNKNOWN)
    told = [_effect(tables, row)]
    if others := list(each(rows.iloc[1:]))[:SEVERAL]:
        told.append(
            f"{listing(f'{tables.domain_label(r.domain)} {signed(r.effect)} ({fixed_span(r)})' for r in others)}."
        )
    return Answer(question, word, tone, (*told, *_rest(tables)), "effects")


def _effect(tables: Tables, row: Any) -> str:
    if absent(row.effect):
        return f"No seed of {row.treated} and {row.control} has ended yet."
    side = "below" if row.effect < 0 else "above"
    end = "better" if row.effect < 0 else "worse"
    size = f"{tables.label(row.treated)} ends {fixed(abs(row.effect))} nats a token {side} {tables.label(row.control)}, which is {end}, on {tables.domain_label(row.domain)}"
    if absent(row.low):
        return f"{size}; one seed: no interval, so no verdict."
    return f"{size}; 95 % interval of the difference {fixed_span(row)}, {plural(int(row.n), 'paired seed')}."


def fixed_span(row: Any) -> str:
    """The interval of a row in words; what is unknown is said so."""
    return "no interval" if absent(row.low) else f"{signed(row.low)} to {signed(row.high)}"


def _rest(tables: Tables) -> list[str]:
    """What the other claims' verdicts are worth beside it."""
    rows, told = tables.claims, []
    if (rows.judged == "closed").any():
        told.append(
            "While this primary comparison is open, no comparison corrected with it gets a verdict, however clear it looks."
        )
    alone = rows[(rows.judged == "alone") & rows.verdict.str.startswith(("supported", "contradicted"))]
    if len(alone):
        n = int((rows.judged == "alone").sum())
        told.append(
            f"{plural(len(alone), 'claim')} below {'is' if len(alone) == 1 else 'are'} judged alone at 5 %, of {n} so judged, and not corrected with the others."
        )
    return told


def _heads(tables: Tables) -> Answer:
    question = "Which heads, and are they needed?"
    if not tables.has("probes"):
        why = "No probe was run on the checkpoints of this study: nca-interp analyze STUDY."
        return Answer(question, "Not measured", "none", (why,), "probes")
    grown, needed = _grown(tables), _needed(tables)
    word = "Heads form, whether they are needed is told below" if grown else "No head of a known kind forms"
    if needed:
        word, needed = needed[0], needed[1:]
    return Answer(question, word, "none", (*(grown or [_none(tables)]), *needed), "circuit")


def _none(tables: Tables) -> str:
    return f"No head of {tables.label(tables.reference)} is above the level of its probe."


def _grown(tables: Tables) -> list[str]:
    """The kind of head that pre-pre-training grew most surely, and what became of it."""
    rows = tables.fates[(tables.fates.regime == tables.reference)]
    if rows.empty:
        return []
    rows = rows[rows.domain == rows.domain.iloc[0]]
    seeds = rows.groupby("probe").seed.nunique()
    probe = min(
        seeds.index, key=lambda p: (FIRST_PROBES.index(p) if p in FIRST_PROBES else len(FIRST_PROBES), -seeds[p])
    )
    mine = rows[rows.probe == probe]
    best = mine.loc[mine.groupby("seed").start.idxmax()].head(SEVERAL)
    places = listing(
        f"layer {int(r.layer)} head {int(r.head)} (seed {int(r.seed)}, {fixed(r.start, 2)})" for r in each(best)
    )
    lost = int(mine.fate.str.contains("lost").sum())
    told = f"Pre-pre-training grows {probe} heads in {plural(int(seeds[probe]), 'seed')} of {tables.n_seeds}; the best: {places}."
    end = f"{lost} of these {plural(len(mine), 'head')} {'is' if lost == 1 else 'are'} below the level again"
    return [f"{told} At the end of language {end}."]


def _needed(tables: Tables) -> list[str]:
    """Whether the model is worse without them, a word first: by sets of heads over seeds, else head by head in the player's seed."""
    sets = tables.top_sets[(tables.top_sets.regime == tables.reference) & (tables.top_sets.stage == "pt")]
    declared = sets[sets.family == "declared"] if len(sets) else sets
    if len(declared):
        told = [
            f"Without its top {r.probe} head(s) {r.metric.replace('_', ' ')} changes by {signed(r.effect)}: {r.verdict}."
            for r in each(declared)
        ]
        word = "Needed" if declared.verdict.str.startswith("load-bearing").any() else "Not shown to be needed"
        return [word, *told[:SEVERAL]]
    todo = "Whether losing them costs more than losing others, over seeds, was not measured: nca-interp analyze STUDY --causes."
    steps = tables.step_effects[tables.step_effects.regime == tables.reference]
    if steps.empty:
        return ["Whether they are needed was not measured", todo]
    costs = []
    for stage, when in (("ppt", "at the end of pre-pre-training"), ("pt", "at the end of language")):
        part = steps[steps.stage == stage]
        if part.empty:
            continue
        last = part[part.step == part.step.max()]
        top = next(each(last.loc[[last.value.idxmax()]]))
        costs.append(
            f"layer {int(top.layer)} head {int(top.head)} {when} ({signed(top.value)} nats a token, {fixed_span(top)})"
        )
    looked = int(steps["head"].nunique() * steps.layer.nunique())
    said = f"In one seed, losing each of {looked} heads alone, the one that costs most is {listing(costs)}; the intervals are not corrected for that choice."
    return ["Whether they are needed is not decided", said, todo]


def _more(tables: Tables) -> Answer:
    """What would have to be run: for the deciding comparison, then for each claim without a verdict."""
    rows, told = tables.claims, list[str]()
    helps = rows[(rows.judged == "first") & (rows.change != "")]
    if len(helps):
        told.append(
            f"For the primary comparison: {lower(str(helps.change.iloc[0]))} A new study of as many: seeds added to this one decide nothing."
        )
    groups: dict[str, list[str]] = {}
    for row in each(rows[rows.verdict.str.startswith("not tested") & (rows.change != "")]):
        groups.setdefault(str(row.change), []).append(f"“{row.says}”")
    told += [f"{listing(dict.fromkeys(says))}: {change}" for change, says in list(groups.items())[:SEVERAL]]
    told = told[: SEVERAL + 1]
    unknown = rows[rows.verdict.str.startswith("cannot tell") & (rows.change != "")].drop_duplicates("claim")
    told += [f"“{r.says}”: {lower(str(r.change))}" for r in each(unknown.head(SEVERAL))][: max(0, SEVERAL - len(told))]
    told.append("Each claim below says what would change it.")
    return Answer("What would have to be run to know more?", "", "none", tuple(told), "")


def lower(text: str) -> str:
    """A sentence that goes on after a colon."""
    return text[:1].lower() + text[1:]
