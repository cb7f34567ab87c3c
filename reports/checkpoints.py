"""The report of checkpoints that come from elsewhere: one model, two side by side, a training series, or many."""

from nca_interp.discover import report
from nca_interp.report.measured import measured
from nca_interp.report.page import Page, Section
from nca_interp.report.sections import collection, model_summary, player
from nca_interp.report.tables import Tables


@report
def checkpoints(tables: Tables) -> Page:
    """Everything measured of some checkpoints, a summary first."""
    return collection.page(
        tables,
        (
            Section("summary", "In short", (*model_summary.summary(tables),)),
            *player.sections(tables),
            *measured(tables),
            Section("method", "Method", (*collection.definitions(tables),)),
            Section("provenance", "Provenance", (*collection.provenance(tables),)),
        ),
    )
