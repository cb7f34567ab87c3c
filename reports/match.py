"""The page on one match: which NCA settings are nearest to a corpus, how sure that is, and what it rests on."""

from nca_interp.discover import report
from nca_interp.report.page import Page, Section
from nca_interp.report.pages import matching
from nca_interp.report.pages.matching import MatchFolder


@report
def match(source: MatchFolder) -> Page:
    """NCA settings nearest to a corpus (nca-interp match CORPUS): verdicts, grid, measures, readings, recipe."""
    source = MatchFolder.checked(source)
    return matching.match_page(
        source,
        (
            Section("settings", "Recommended settings", (*matching.settings(source),)),
            Section("grid", "Distance of every cell", (*matching.grid_map(source), *matching.nearest_cells(source))),
            Section("measures", "Corpus and nearest cell", (*matching.measures(source),)),
            Section("readings", "Other ways of measuring", (*matching.readings(source),)),
            Section("grounds", "What it rests on", (*matching.grounds(source),)),
            Section("recipe", "To paste", (*matching.recipe(source),)),
            Section("limits", "Limits", (*matching.limits(source),)),
            Section("provenance", "Provenance", (*matching.provenance(source),)),
        ),
    )
