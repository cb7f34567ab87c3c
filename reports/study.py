"""The standard report of a study: its claims first, the evidence for each, then everything measured."""

from dataclasses import replace

from nca_interp.discover import report
from nca_interp.report.measured import measured
from nca_interp.report.page import Figure, Page, Section, Table
from nca_interp.report.sections import (
    carriers,
    circuit,
    claims,
    losses,
    method,
    outcome,
    player,
    policy,
    sources,
    start,
    transfer,
)
from nca_interp.report.tables import Tables


@report
def study(tables: Tables) -> Page:
    """What was claimed and found, evidence below, all measurements folded."""
    evidence = (
        Section("effects", "Effect on the final loss", (*outcome.forest(tables),), group="Evidence"),
        Section("loss", "Loss in training", (*losses.loss_curves(tables),), columns=2 if len(tables.domains) == 1 else 1),
        Section("circuit", "What forms in the synthetic stage", (*player.player(tables), *circuit.phases(tables))),
        Section("start", "The swap, and the network at step 0", (*start.start(tables),)),
        Section("transfer", "Which part of the network carries it", (*transfer.reinit(tables), *carriers.carriers(tables))),
        Section("complexity", "Does the complexity of the data matter?", (*sources.complexity(tables),), folded=True),
        Section("speed", "Tokens to the same loss", (*outcome.speedup(tables),), folded=True),
        Section("reasoning", "Reasoning after fine-tuning", (*transfer.reasoning(tables),), folded=True),
        Section(
            "verdict", "All planned comparisons", (*outcome.verdict_box(tables), *carriers.all_contrasts(tables), *losses.final_table(tables), *losses.ppt_curves(tables)),
            folded=True,
        ),
    )  # fmt: skip
    explorer = tuple(
        replace(part, folded=True, group="Explore" if first else "") for first, part in _numbered(measured(tables))
    )
    method_parts = (
        Section(
            "published", "Beside the published numbers", (*method.published(tables), *method.deviations(tables)),
            group="How it was made", folded=True,
        ),
        Section("method", "Method", (*policy.policy(tables), *method.definitions(tables)), folded=True),
        Section("limits", "Limits", (*method.limits(tables),), folded=True),
        Section("provenance", "Provenance", (*method.provenance(tables),), folded=True),
        Section("reproduce", "Reproduce and cite", (*method.reproduce(tables), *method.citation(tables)), folded=True),
    )  # fmt: skip
    rest = tuple(
        replace(part, tones=claims.tones(tables, part.id, *_inside(part)))
        for part in (*evidence, *explorer, *method_parts)
    )
    anchors = [anchor for part in rest for anchor in (part.id, *_inside(part))]
    opening = (
        Section("claims", "What was found", (*claims.claims(tables, anchors),), group="Claims"),
        Section("trained", "What was trained", (*claims.trained(tables),), folded=True),
    )
    return method.study_page(tables, (*opening, *rest), opening=len(opening))


def _inside(part: Section) -> list[str]:
    return [item.id for item in part.items if isinstance(item, Figure | Table) and item.id]


def _numbered(parts: tuple[Section, ...]) -> list[tuple[bool, Section]]:
    return [(place == 0, part) for place, part in enumerate(parts)]
