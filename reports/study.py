"""The standard report of a study: did it help, by how much, where in the network, and how sure is that."""

from nca_interp.discover import report
from nca_interp.report.page import Page, Section
from nca_interp.report.sections import (
    causes,
    emergence,
    head_page,
    heads,
    learning,
    method,
    outcome,
    policy,
    readout,
    similarity,
    sources,
    transfer,
)
from nca_interp.report.tables import Tables


@report
def study(tables: Tables) -> Page:
    """Everything measured in a study, verdicts first."""
    return method.study_page(
        tables,
        (
            Section("verdict", "Does it help?", (*outcome.verdict_box(tables),)),
            Section(
                "loss",
                "Loss in training",
                (*outcome.final_table(tables), *outcome.loss_curves(tables), *outcome.ppt_curves(tables)),
            ),
            Section("speed", "Tokens to the same loss", (*outcome.speedup(tables),)),
            Section("probes", "Attention heads over training", (*heads.induction(tables), *heads.explorer(tables))),
            Section(
                "emergence",
                "When heads appear, and whether they stay",
                (*emergence.appearance(tables), *emergence.persistence(tables)),
            ),
            Section(
                "heads",
                "Head by head",
                (*heads.head_map(tables), *head_page.thumbnails(tables), *head_page.patterns(tables)),
            ),
            Section("causes", "What the model loses without a head", (*causes.section(tables),)),
            Section("data", "What the model reads before language", (*sources.trajectory(tables),)),
            Section("learned", "Was the synthetic task learned?", (*learning.task(tables),)),
            Section("readout", "Is the rule in the network?", (*readout.rules(tables),)),
            Section("similarity", "Are the networks alike inside?", (*similarity.networks(tables),)),
            Section("transfer", "Which part of the network carries it", (*transfer.reinit(tables),)),
            Section("complexity", "Does the complexity of the data matter?", (*sources.complexity(tables),)),
            Section("reasoning", "Reasoning after fine-tuning", (*transfer.reasoning(tables),)),
            Section(
                "published", "Beside the published numbers", (*method.published(tables), *method.deviations(tables))
            ),
            Section("method", "Method", (*policy.policy(tables), *method.definitions(tables))),
            Section("limits", "Limits", (*method.limits(tables),)),
            Section("provenance", "Provenance", (*method.provenance(tables),)),
            Section("reproduce", "Reproduce and cite", (*method.reproduce(tables), *method.citation(tables))),
        ),
    )
