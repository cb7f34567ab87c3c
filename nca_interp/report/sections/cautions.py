"""Warnings that the numbers themselves give rise to. None of them is written by hand."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nca_interp.report.charts.numbers import listing, plural, short, spread
from nca_interp.report.sections.learning import unlearned
from nca_interp.report.sections.policy import ANEW
from nca_interp.report.tables import Tables, each

PAPER_PARAMS, PAPER_PPT_TOKENS, PAPER_PT_TOKENS = 1.6e9, 164e6, 9.02e9
"""arXiv 2603.10055: largest model, pre-pre-training tokens, OpenWebText tokens."""
ALPHA, UNDECLARED = 0.05, "not declared"
STAND_INS = ("site:prose-", "site:code", "arithmetic:")


def cautions(tables: Tables) -> tuple[str, ...]:
    """Sentences for the head of the report, most severe first."""
    return (
        *_seeds(tables),
        *_parents(tables),
        *_plan(tables),
        *_failures(tables),
        *_health(tables),
        *_task(tables),
        *_tokens(tables),
        *_scale(tables),
        *_corpora(tables),
        *_gaps(tables),
        *_repository(tables),
    )


def _seeds(tables: Tables) -> Iterator[str]:
    planned = tables.contrasts[tables.contrasts.family == "regime"].n
    if (int(planned.max()) if len(planned) else tables.n_seeds) <= 1:
        yield "One seed: there is no interval and no verdict. What the curves show may be chance."
    judged = tables.contrasts[tables.contrasts.p_exact_floor > ALPHA]
    for row in each(judged.drop_duplicates(["n", "comparisons"])):
        yield (
            f"{plural(int(row.n), 'seed')}, {plural(int(row.comparisons), 'comparison')}: the exact sign-flip test, corrected, cannot give "
            f"less than p = {row.p_exact_floor:.3g}, whatever the data, so it cannot confirm a verdict at 5 %; verdicts assume normal "
            "differences."
        )


def _parents(tables: Tables) -> Iterator[str]:
    """Of regimes that start from checkpoints: what their seeds replicate, and what is not counted."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for regime in tables.study["regimes"]:
        source = regime.get("source") or {}
        if source.get("kind") == "checkpoint":
            groups.setdefault(tuple(source["paths"]), []).append(regime["label"])
    for paths, labels in groups.items():
        if len(paths) > 1:
            yield (
                f"Each seed of {listing(labels)} starts from a checkpoint of its own ({listing(paths)}): seeds differ by that, by data order and "
                "by fresh embeddings. They are replications of one training only as far as their authors made them so."
            )
        elif tables.n_seeds > 1:
            yield (
                f"One parent: all seeds of {listing(labels)} start from {paths[0]}. They replicate the order of the data and the embeddings drawn "
                "at the swap, not the training of the parent (seeds of scratch also have a body of their own): intervals and verdicts speak of this checkpoint, not of others that were trained alike."
            )
    if groups:
        yield "What the parents were trained on, and what that cost, is not known here and counted nowhere: no budget of tokens or FLOPs includes it."


def _plan(tables: Tables) -> Iterator[str]:
    if len(tables.plan) and (tables.plan.declared == UNDECLARED).all():
        yield "No plan was kept before the first run: margins, seeds and comparisons are those of the configuration as it stands now."
    for row in each(tables.plan[tables.plan["item"] == ANEW]):
        yield f"The plan was declared anew after runs had begun, {row.declared}."
    changed = tables.plan[tables.plan.changed & ~tables.plan.item.str.startswith("SHA-256")]
    if len(changed):
        named = "; ".join(f"{r.item}: {r.declared} declared, {r.now} now" for r in each(changed))
        yield f"The plan was changed after the first run; verdicts follow what was declared: {named}."
    interim = tables.contrasts[tables.contrasts.pending != ""]
    if len(interim):
        yield f"Interim: {len(interim)} of {plural(len(tables.contrasts), 'planned comparison')} wait for runs and have no verdict yet."
    lost = list(dict.fromkeys(name for names in tables.contrasts.lost for name in names.split()))
    if lost:
        yield f"Lost with their pairs, {plural(len(lost), 'run')} without a usable loss or accuracy: {listing(lost)}."


def _failures(tables: Tables) -> Iterator[str]:
    bad = tables.runs[tables.runs.state != "done"]
    if len(bad):
        named = listing(f"{r.run} ({r.state or 'unknown state'})" for r in each(bad))
        yield f"Left out of every mean, {plural(len(bad), 'run')} did not finish: {named}."
    wanted = tables.n_seeds
    counts = tables.final.groupby(["regime", "domain"]).seed.nunique()
    fewer: dict[int, list[str]] = {}
    for row in each(counts[counts < wanted].reset_index(name="n")):
        fewer.setdefault(int(row.n), []).append(f"{row.regime} on {row.domain}")
    for n, names in sorted(fewer.items()):
        yield f"{n} instead of {wanted} finished seeds: {listing(names)}."
    params = tables.runs[tables.runs.stage == "pt"].groupby("domain").params.nunique()
    if (params > 1).any():
        yield f"Regimes differ in parameters on {listing(params[params > 1].index)}; their losses are not comparable."


def _health(tables: Tables) -> Iterator[str]:
    for column, what in (
        ("nonfinite", "A loss or gradient that was not finite"),
        ("spikes", "A loss spike (above the threshold over the running median that the run declares)"),
    ):
        hit = tables.runs[tables.runs[column] > 0]
        if len(hit):
            named = listing(f"{r.run} ({plural(int(getattr(r, column)), 'step')})" for r in each(hit))
            yield f"{what} occurred in {plural(len(hit), 'run')}: {named}."
    left_out = tables.runs[tables.runs.skipped > 0]
    if len(left_out):
        named = listing(f"{r.run} ({int(r.skipped)} of {int(r.steps)})" for r in each(left_out))
        yield f"Steps were skipped, so these runs took fewer updates than the others: {named}."


def _task(tables: Tables) -> Iterator[str]:
    found = [
        f"{tables.label(regime)} ({n} of {plural(runs, 'run')})" for regime, (n, runs) in unlearned(tables).items()
    ]
    if found:
        yield (
            f"Not shown to have inferred the rules of the synthetic task: {listing(found)}. The transfer verdict of such a regime is about training "
            "on such data, not about having learned it."
        )


def _tokens(tables: Tables) -> Iterator[str]:
    for row in each(tables.notes):
        yield f"{row.source} ({row.description}): {row.note}."


def _scale(tables: Tables) -> Iterator[str]:
    runs = tables.runs
    pt, ppt = runs[runs.stage == "pt"], runs[runs.stage == "ppt"]
    if len(pt) and (pt.params.max() < 0.2 * PAPER_PARAMS or pt.tokens.max() < 0.2 * PAPER_PT_TOKENS):
        before = f", {short(ppt.tokens.max())} tokens before it" if len(ppt) else ""
        yield (
            f"Small scale: {short(pt.params.max())} parameters and {spread(pt.groupby('domain').tokens.max())} pre-training tokens{before}; the paper has "
            f"{short(PAPER_PARAMS)}, {short(PAPER_PT_TOKENS)} and {short(PAPER_PPT_TOKENS)}. Nothing here confirms or refutes it at its own scale."
        )


def _is_stand_in(item: dict[str, Any]) -> bool:
    source = item.get("source")
    origin = str(source.get("source", "")) if isinstance(source, dict) else ""
    return origin.startswith(STAND_INS) or "stand-in" in str(item.get("label", "")).lower()


def _corpora(tables: Tables) -> Iterator[str]:
    items = [*tables.study["domains"], *tables.study["regimes"]]
    named = list(dict.fromkeys(item["label"] for item in items if _is_stand_in(item)))
    if named:
        yield f"Stand-in corpora, made from what is installed beside the package or generated: {listing(named)}."


def _gaps(tables: Tables) -> Iterator[str]:
    if not tables.has("contrasts"):
        yield "No planned comparison was computed, so this report holds no verdict."


def _repository(tables: Tables) -> Iterator[str]:
    if tables.provenance.get("git_dirty"):
        yield "The repository had uncommitted changes, so the commit alone does not reproduce this."
