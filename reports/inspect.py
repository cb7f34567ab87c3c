"""The page on one token source: what its rows look like, how complex they are, and what can be predicted of them."""

from nca_interp.discover import report
from nca_interp.report.page import Page, Section
from nca_interp.report.pages import inspection, inspection_controls, inspection_dyck, inspection_examples
from nca_interp.report.pages import inspection_figures as figures
from nca_interp.report.pages.inspection import Inspection


@report
def inspect(source: Inspection) -> Page:
    """One token source (nca-interp data inspect SOURCE): examples, measures, ideal predictors."""
    source = Inspection.checked(source)
    return inspection.inspection_page(
        source,
        (
            Section(
                "examples",
                "Low, middle and high complexity",
                (*inspection_examples.examples(source),),
                columns=3 if source.record["kind"] == "nca" else 1,
            ),
            Section("acceptance", "How random rules score", (*figures.acceptance(source),)),
            Section("distributions", "How rows differ", (*figures.histograms(source),)),
            Section("brackets", "Depth and distance", (*inspection_dyck.brackets(source),)),
            Section("information", "How far tokens know of each other", (*figures.information(source),)),
            Section("ranks", "How often tokens occur", (*figures.ranks(source),)),
            Section(
                "predictors",
                "What can be predicted",
                (*figures.predictors(source), *inspection_controls.ideals(source)),
            ),
            Section("measures", "All measures", (*inspection.table_of_measures(source),)),
            Section("limits", "Limits", (*inspection.limits(source),)),
            Section("provenance", "Provenance", (*inspection.provenance(source),)),
            Section("reproduce", "Reproduce", (*inspection.reproduce(source),)),
        ),
    )
