"""The claims of a study that names none: those of arXiv 2603.10055 that its arms can speak to, and what its swap arms are there for."""

from __future__ import annotations

from collections.abc import Iterator

from nca_interp.claims import Claim
from nca_interp.config import MODULES, Study
from nca_interp.graft import NOTHING, Graft

PAPER = "arXiv 2603.10055"
MATCHED = "complexity"
"""Role of the arms that differ in complexity."""


def standard(study: Study) -> tuple[Claim, ...]:
    """The claims that the arms of a study can speak to, the paper's first."""
    return tuple(_standard(study))


def _standard(study: Study) -> Iterator[Claim]:
    roles = {r.name: r.role for r in study.regimes}
    labels = {r.name: r.label for r in study.regimes}
    first = _first(study)
    if first is None:
        return
    own = labels[first]
    main = [n for n, role in roles.items() if role == "regime" and n != first]
    pair = {"treated": first, "control": "scratch"}
    if "scratch" in main:
        yield Claim(
            name="helps",
            says=f"{own} first, then language, ends at a lower loss than language alone",
            source=PAPER,
            kind="lower_loss",
            **pair,
        )
        yield Claim(
            name="faster",
            says=f"{own} reaches the same loss with fewer language tokens",
            source=PAPER,
            kind="faster",
            **pair,
        )
    for name in main:
        if name != "scratch":
            yield Claim(
                name=f"beats-{name}"[:40],
                says=f"{own} beats {labels[name]} at the same synthetic budget",
                source=PAPER,
                kind="lower_loss",
                treated=first,
                control=name,
            )
    yield from _swaps(study, first, own)
    arms = {module: _without(study, first, module) for module in ("attn", "mlp")}
    if arms["attn"] is not None and arms["mlp"] is not None:
        yield Claim(
            name="attention-carries", says="What helps is carried by attention, more than by the MLPs",
            source=f"{PAPER}, section 5.3.1", kind="part_carries", treated=arms["attn"], control=arms["mlp"],
        )  # fmt: skip
    if any(role == MATCHED for role in roles.values()):
        yield Claim(
            name="complexity-matches",
            says="The nearer the complexity of the synthetic data to the domain's, the larger the gain",
            source=PAPER,
            kind="complexity_matches",
            treated=first,
        )
    if "scratch" in main:
        yield Claim(
            name="induction-earlier",
            says=f"Induction heads emerge earlier after {own}",
            source=f"{PAPER}, as a hypothesis",
            kind="heads_earlier",
            **pair,
        )
        yield Claim(
            name="induction-load-bearing",
            says=f"Induction heads carry load at the end of pre-training after {own}",
            source=f"{PAPER}, as a hypothesis",
            kind="heads_load_bearing",
            treated=first,
        )
        if any(d.qa is not None for d in study.domains):
            yield Claim(
                name="reasons-better",
                says=f"{own} reasons better after fine-tuning",
                source=PAPER,
                kind="reasons_better",
                **pair,
            )


def _without(study: Study, first: str, module: str) -> str | None:
    """The arm of a regime in which one kind of module, and nothing else, goes back to its initial weights in all layers."""
    own = study.regime(first)
    kept, graft = set(MODULES) - {module}, Graft(parts=(module,))
    for arm in study.regimes:
        alike = arm.role == "transfer" and (arm.source, arm.ppt, arm.swap) == (own.source, own.ppt, own.swap)
        initial = set(arm.keep) == kept and arm.reinit_to == "initial" and arm.graft == NOTHING
        if alike and (initial or (arm.graft == graft and set(arm.keep) == set(MODULES))):
            return arm.name
    return None


def _swaps(study: Study, first: str, own: str) -> Iterator[Claim]:
    """Whether the effect depends on how embeddings are drawn, for each arm of the studied regime that has a scratch arm alike."""
    for arm in study.regimes:
        if arm.role != "swap" or not arm.name.startswith(f"{first}-"):
            continue
        drawn = arm.swap.drawn(study.model)
        alike = [
            r for r in study.regimes if r.source is None and drawn is not None and r.swap.drawn(study.model) == drawn
        ]
        if alike and alike[0].name != "scratch":
            yield Claim(
                name=f"depends-on-{arm.name.removeprefix(first + '-')}"[:40],
                says=f"Whether {own} helps depends on how the fresh embeddings are drawn ({arm.swap.words(arm.swap.applied(study.model))})",
                source="this project", kind="depends_on_swap", treated=first, control="scratch", other=(arm.name, alike[0].name),
            )  # fmt: skip


def _first(study: Study) -> str | None:
    """The regime that the study is about: that of its primary comparison, `nca`, else the first that is not scratch."""
    if study.primary is not None:
        return study.primary.treated
    names = [r.name for r in study.regimes if r.role == "regime" and r.name != "scratch"]
    return "nca" if "nca" in names else next(iter(names), None)
