"""The plan of a study: what is compared, on which seeds, within which margin. Kept with its hash before the first run
starts, or declared anew before anything that it compares is known (declare.py).

Verdicts follow the kept plan: a margin, a comparison or a seed that was changed afterwards is shown as a change and decides
nothing. A study whose runs began without a plan is judged as its configuration stands now, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from nca_interp.analysis.verdicts.statistics import ALPHA
from nca_interp.base import UserError, digest
from nca_interp.checkpoint_spec import CheckpointSpec
from nca_interp.config import MODULES, Regime, Study
from nca_interp.graft import NOTHING, Graft
from nca_interp.store import StudyDir, read_json

PLAN = ["item", "declared", "now", "changed"]
SCRATCH = "scratch"
BEST = "best scratch"
"""The scratch arm of a domain with the lowest mean final loss over the seeds that all its scratch arms have; the first of the recipe
where two are equal. The rule is fixed before the runs, the arm is not: the least of several means is low by chance too, so
"better than the best scratch" is harder to reach than for an arm named beforehand, and "worse" is easier."""
ACCURACY_MARGIN = 0.01
"""Share of problems within which two accuracies count as equivalent."""
NONE = "not declared"
ANEW = "declared anew"


class Planned(NamedTuple):
    """Two regimes to compare, treated minus control."""

    family: str
    treated: str
    control: str


class Contrast(NamedTuple):
    """One planned comparison of one domain and metric."""

    family: str
    """regime, transfer, complexity, swap or reasoning: the part of the report that tells it; all are corrected for together."""
    domain: str
    metric: str
    treated: str
    control: str
    seeds: tuple[int, ...]
    """Indices of the planned seeds."""
    margin: float
    primary: bool = False

    @property
    def name(self) -> str:
        """It in words."""
        return f"{self.domain}: {self.treated} against {self.control}, {self.metric}"


class Declaration(NamedTuple):
    """What verdicts are given by."""

    contrasts: list[Contrast]
    added: list[Contrast]
    """Comparisons of the present configuration that the kept plan has not: no verdict."""
    table: pd.DataFrame
    """PLAN: what was declared and what the configuration says now."""


def primary(roles: dict[str, str]) -> str | None:
    """The regime that the study is about: `nca`, else the first compared regime that is not scratch."""
    names = [name for name, role in roles.items() if role == "regime" and name != SCRATCH]
    return "nca" if "nca" in names else (names[0] if names else None)


def planned(roles: dict[str, str]) -> list[Planned]:
    """Comparisons that follow from the regimes' roles, each once, declared before any result is read.

    regime: the primary regime against scratch and every other regime or control. transfer: each re-initialisation arm
    against full transfer (necessity of what it re-initialised) and scratch (sufficiency of what it kept). complexity: every
    arm against scratch.
    """
    first = primary(roles)
    if first is None:
        return []
    others = [name for name, role in roles.items() if role in ("regime", "control") and name != first]
    plan = [Planned("regime", first, name) for name in sorted(others, key=lambda n: n != SCRATCH)]
    arms = [name for name, role in roles.items() if role == "transfer"]
    plan += [Planned("transfer", arm, first) for arm in arms]
    if SCRATCH in roles:
        plan += [Planned("transfer", arm, SCRATCH) for arm in arms]
        plan += [Planned("complexity", name, SCRATCH) for name, role in roles.items() if role == "complexity"]
    return plan


def contrasts_of(study: Study) -> list[Contrast]:
    """All comparisons of a study, fixed by its configuration. UserError where its primary one is none of them."""
    regimes = {r.name: r for r in study.regimes}
    found = []
    for domain in study.domains:
        scratches = scratch_arms_of(study, domain.name)
        roles: dict[str, str] = {r.name: r.role for r in study.regimes if r.graft == NOTHING}
        for item in [*planned(roles), *_swaps(study, scratches), *_grafts(study, scratches)]:
            pair = [r for name in item[1:] for r in (scratches if name == BEST else [regimes[name]])]
            seeds = tuple(range(min(_seeds(r, domain.name, study) for r in pair)))
            where = (domain.name, "val_loss", item.treated, item.control, seeds)
            found.append(Contrast(item.family, *where, study.margin))
            if domain.qa is not None and item.family == "regime" and item.control != BEST and all(r.ft for r in pair):
                found.append(Contrast("reasoning", domain.name, "accuracy", *where[2:], ACCURACY_MARGIN))
    found = [c for c in found if c.seeds]
    if (first := study.primary) is None:
        return found
    wanted = (first.domain, first.metric, first.treated, first.control)
    if wanted not in [c[1:5] for c in found]:
        raise UserError(
            f"primary: {first.treated} against {first.control} on {first.domain} ({first.metric}) is no planned comparison; "
            f"legal: {'; '.join(c.name for c in found) or 'none, the study plans no comparison'}"
        )
    return [c._replace(primary=c[1:5] == wanted) for c in found]


def scratch_arms_of(study: Study, domain: str) -> list[Regime]:
    """Regimes that are trained on a domain from scratch, in the recipe's order; none with a larger language budget, none that does not
    see the previous token."""
    arms = (r for r in study.regimes if r.source is None and r.adds is None and not r.no_previous_token)
    return [r for r in arms if _seeds(r, domain, study)]


def _swaps(study: Study, scratches: list[Regime]) -> Iterator[Planned]:
    """Comparisons that follow from swap policies (docs/swap.md): each arm against scratch with the same embeddings, and, where there
    are several scratch arms, each arm and the regime that the study is about against the best of them."""
    first = primary({r.name: r.role for r in study.regimes})
    if len(scratches) > 1 and first is not None and study.regime(first).source is not None:
        yield Planned("regime", first, BEST)
    for arm in (r for r in study.regimes if r.role == "swap"):
        alike = _alike(arm, scratches, study)
        if alike or len(scratches) == 1:
            yield Planned("swap", arm.name, (alike or scratches)[0].name)
        if len(scratches) > 1:
            yield Planned("swap", arm.name, BEST)


def _alike(arm: Regime, scratches: list[Regime], study: Study) -> list[Regime]:
    """The scratch arms whose embeddings are drawn as those of an arm, at its learning rate."""
    drawn = arm.swap.drawn(study.model)
    return [
        r
        for r in scratches
        if drawn is not None and r.swap.drawn(study.model) == drawn and r.lr_factor == arm.lr_factor
    ]


def full_of(study: Study, arm: Regime) -> Regime | None:
    """The regime that carries over everything of which a graft carries over a part: same source and budgets, same swap policy."""
    wanted = (arm.source, study.ppt_of(arm), arm.swap, arm.lr_factor, arm.no_previous_token)
    for r in study.regimes:
        whole = r.graft == NOTHING and set(r.keep) == set(MODULES)
        if whole and (r.source, study.ppt_of(r), r.swap, r.lr_factor, r.no_previous_token) == wanted:
            return r
    return None


def scratch_of(study: Study, arm: Regime, domain: str) -> Regime | None:
    """Scratch that an arm is compared with on a domain: with the same embeddings, else the only one."""
    scratches = scratch_arms_of(study, domain)
    alike = _alike(arm, scratches, study)
    return alike[0] if alike else (scratches[0] if len(scratches) == 1 else None)


def questions_of(graft: Graft) -> tuple[str, ...]:
    """What an arm answers: necessity (against full transfer) of what is re-initialised, sufficiency (against scratch) of what alone is
    carried over; both where something else than initial weights stands in a part's place."""
    if graft.instead in ("initial", "fresh"):
        return ("necessity",) if graft.mode == "reinit" else ("sufficiency",)
    return ("necessity", "sufficiency")


def _grafts(study: Study, scratches: list[Regime]) -> Iterator[Planned]:
    """Comparisons that follow from grafts (docs/transfer.md); arms that ask what heads mediate are judged against random sets instead
    (docs/mediation.md). UserError for an arm without its full transfer."""
    for arm in (r for r in study.regimes if r.graft != NOTHING and r.role != "mediation"):
        full = full_of(study, arm)
        if full is None:
            raise UserError(
                f"regimes.{arm.name}.graft: {arm.graft.words()}: no regime carries over everything of the same source, budget and swap "
                "policy, so there is nothing to compare it with; add one (it shares the pre-pre-training)"
            )
        asked = questions_of(arm.graft)
        if "necessity" in asked:
            yield Planned("transfer", arm.name, full.name)
        names = [r.name for r in scratches]
        alike = [r.name for r in _alike(arm, scratches, study)] or (names if len(names) == 1 else [])
        if "sufficiency" in asked and alike:
            yield Planned("transfer", arm.name, alike[0])


def _seeds(regime: Regime, domain: str, study: Study) -> int:
    return len(study.seeds) if regime.runs is None else regime.runs.get(domain, 0)


def plan_of(study: Study) -> dict[str, Any]:
    """The plan as JSON; claims only where the recipe names its own, and what seeds replicate where it is not everything."""
    named = {} if study.claims is None else {"claims": [claim.model_dump(mode="json") for claim in study.claims]}
    found = {
        "level": ALPHA,
        "seeds": [seed.model_dump(mode="json") for seed in study.seeds],
        "contrasts": [{**c._asdict(), "seeds": list(c.seeds)} for c in contrasts_of(study)],
        **named,
    }
    limited = {regime.name: said for regime in study.regimes if (said := replicates(regime))}
    return {**found, "replicates": limited} if limited else found


def replicates(regime: Regime) -> str:
    """What differs between the seeds of a regime that starts from checkpoints, which were trained elsewhere; empty for others, whose
    seeds differ in everything that is drawn."""
    if not isinstance(regime.source, CheckpointSpec):
        return ""
    one = len(regime.source.paths) == 1
    return f"data order and fresh embeddings{' of one checkpoint' if one else ', and the checkpoint'}"


def declared(directory: StudyDir, study: Study) -> Declaration:
    """The plan to judge by, and how the configuration differs from it. UserError where the kept plan is not what was hashed."""
    now = plan_of(study)
    current, kept = contrasts_in(now), kept_plan(directory)
    if kept is None:
        return Declaration(current, [], pd.DataFrame(_rows(None, now), columns=PLAN))
    then = contrasts_in(kept["plan"])
    known = {c[1:5] for c in then}
    added = [c for c in current if c[1:5] not in known]
    return Declaration(then, added, pd.DataFrame(_rows(kept, now), columns=PLAN))


def kept_plan(directory: StudyDir) -> dict[str, Any] | None:
    """The record of the plan that is kept, None where there is none. UserError where it is not what was hashed."""
    if not directory.plan.exists():
        return None
    kept = read_json(directory.plan)
    if not isinstance(kept, dict) or digest(kept.get("plan")) != kept.get("sha256"):
        raise UserError(f"{directory.plan}: not the plan that was hashed before the first run; put the original back")
    return kept


def contrasts_in(plan: dict[str, Any]) -> list[Contrast]:
    """The comparisons of a plan as JSON."""
    return [Contrast(**{**c, "seeds": tuple(c["seeds"])}) for c in plan["contrasts"]]


def _rows(kept: dict[str, Any] | None, now: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row an item of the plan."""
    then = _items(kept["plan"]) if kept else {}
    current = _items(now)
    head = {
        "SHA-256 of the plan": (kept["sha256"] if kept else NONE, digest(now)),
        "kept at": (kept["time"] if kept else NONE, ""),
    }
    if kept and (anew := anew_words(kept)):
        head[ANEW] = (anew, "")
    yield from (
        {"item": k, "declared": a, "now": b, "changed": k not in ("kept at", ANEW) and bool(kept) and a != b}
        for k, (a, b) in head.items()
    )
    for item in dict.fromkeys([*then, *current]):
        a, b = then.get(item, NONE), current.get(item, "not planned")
        yield {"item": item, "declared": a, "now": b, "changed": bool(kept) and a != b}


def anew_words(kept: dict[str, Any]) -> str:
    """How a plan that was declared anew came about; empty for one that was kept before the first run."""
    if "anew" not in kept:
        return ""
    replaced = "; ".join(f"{old['sha256'][:12]} of {old['time']}" for old in kept["before"])
    return f"before any run that it compares was evaluated, in place of {replaced or 'none'}, by: {kept['anew']}"


def _items(plan: dict[str, Any]) -> dict[str, str]:
    contrasts = contrasts_in(plan)
    first = [c.name for c in contrasts if c.primary]
    seeds = ", ".join("/".join(str(v) for v in seed.values()) for seed in plan["seeds"])
    found = {
        "level": f"{plan['level']:g}", "seeds (init/order/rules)": seeds,
        "primary comparison": first[0] if first else "none", "comparisons": str(len(contrasts)),
    }  # fmt: skip
    found |= {f"claim {c['name']}": c["says"] for c in plan.get("claims", ())}
    found |= {f"seeds of {name} replicate": said for name, said in plan.get("replicates", {}).items()}
    return found | {c.name: f"{len(c.seeds)} seed(s), margin {c.margin:g}" for c in contrasts}
