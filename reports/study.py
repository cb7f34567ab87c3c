"""The standard report of a study: did it help, by how much, where in the network, and how sure is that."""

from nca_interp.discover import report
from nca_interp.report.measured import measured
from nca_interp.report.page import Page, Section
from nca_interp.report.sections import carriers, circuit, method, outcome, policy, sources, start, transfer
from nca_interp.report.tables import Tables


@report
def study(tables: Tables) -> Page:
    """Everything measured in a study, verdicts first."""
    return method.study_page(
        tables,
        (
            Section("verdict", "Does it help?", (*outcome.verdict_box(tables), *carriers.all_contrasts(tables))),
            Section(
                "circuit",
                "What forms in the synthetic stage",
                (*circuit.phases(tables), *circuit.at_work(tables)),
            ),
            Section(
                "loss",
                "Loss in training",
                (*outcome.final_table(tables), *outcome.loss_curves(tables), *outcome.ppt_curves(tables)),
            ),
            Section("speed", "Tokens to the same loss", (*outcome.speedup(tables),)),
            Section("start", "The swap, and the network at step 0", (*start.start(tables),)),
            *measured(tables),
            Section(
                "transfer",
                "Which part of the network carries it",
                (*transfer.reinit(tables), *carriers.carriers(tables)),
            ),
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
