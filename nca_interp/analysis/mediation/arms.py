"""Which regimes of a study ask what heads mediate, and what each is compared with: read from the configuration alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nca_interp.config import MODULES, Regime, Study
from nca_interp.graft import NOTHING, rule_of
from nca_interp.head_rule import HeadRule

WAYS = {"reinit": "without", "keep": "only"}


@dataclass(frozen=True)
class Grafted:
    """A rule's heads, taken away or alone carried over, and the random sets they are held against. Names of regimes."""

    rule: HeadRule
    way: str
    """without or only."""
    full: str
    scratch: str
    arm: str
    random: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Blinded:
    """Full transfer and scratch, both without attention to the previous token in the stages named."""

    stages: tuple[str, ...]
    full: str
    scratch: str
    blind: str
    blind_scratch: str


def grafted_arms(study: Study) -> list[Grafted]:
    """Every rule and way with its regimes, in the study's order; arms without full transfer or scratch of the same policy beside them
    are left out."""
    found: dict[tuple[str, str, str], Grafted] = {}
    random: dict[tuple[str, str, str], list[str]] = {}
    for arm in study.regimes:
        if (rule := rule_of(arm.graft)) is None or arm.graft.parts:
            continue
        full, scratch = _full(study, arm), _scratch(study, arm)
        if full is None or scratch is None:
            continue
        key = (rule.key, WAYS[arm.graft.mode], full.name)
        if rule.random is None:
            found[key] = Grafted(rule, key[1], full.name, scratch.name, arm.name)
        else:
            random.setdefault(key, []).append(arm.name)
    for key, one in found.items():
        one.random.extend(random.get(key, []))
    return list(found.values())


def blinded_arms(study: Study) -> Iterator[Blinded]:
    """Every regime without attention to the previous token that has its scratch and its seeing counterpart beside it."""
    for arm in study.regimes:
        if not arm.no_previous_token or arm.source is None or arm.graft != NOTHING:
            continue
        stages = arm.no_previous_token
        seeing = arm.model_copy(update={"no_previous_token": ()})
        full, scratch = _full(study, seeing, any_ppt=True), _scratch(study, seeing)
        blind = _scratch(study, arm)
        if full is not None and scratch is not None and blind is not None:
            yield Blinded(stages, full.name, scratch.name, arm.name, blind.name)


def _full(study: Study, arm: Regime, any_ppt: bool = False) -> Regime | None:
    """The regime that differs from an arm in carrying everything over, and in nothing else."""
    for one in study.regimes:
        same = ("source", "swap", "no_previous_token", "lr_factor")
        alike = all(getattr(one, name) == getattr(arm, name) for name in same)
        whole = one.graft == NOTHING and set(one.keep) == set(MODULES) and one.role != "mediation"
        if alike and whole and (one.ppt == arm.ppt if any_ppt else study.ppt_of(one) == study.ppt_of(arm)):
            return one
    return None


def _scratch(study: Study, arm: Regime) -> Regime | None:
    """Scratch with the same embeddings, and the same mask in language."""
    drawn = arm.swap.drawn(study.model)
    for one in study.regimes:
        masked = ("pt" in one.no_previous_token) == ("pt" in arm.no_previous_token)
        plain = one.source is None and one.adds is None and one.lr_factor == arm.lr_factor
        if plain and masked and drawn is not None and one.swap.drawn(study.model) == drawn:
            return one
    return None
