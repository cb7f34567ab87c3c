"""The page of a phase diagram: where the synthetic stage helps, harms, or nobody knows yet."""

from nca_interp.discover import report
from nca_interp.report.page import Page, Section
from nca_interp.report.pages import phase as pages
from nca_interp.report.pages.phase import PhaseFolder


@report
def phase(source: PhaseFolder) -> Page:
    """A phase diagram (nca-interp train phase): maps of the effect over the factors, every cell, limits."""
    source = PhaseFolder.checked(source)
    return pages.phase_page(
        source,
        (
            Section("maps", "Where it helps and where it harms", (*pages.maps(source),)),
            Section("cells", "Every cell", (*pages.every_cell(source),)),
            Section("limits", "Limits", (*pages.limits(source),)),
            Section("provenance", "Provenance", (*pages.provenance(source),)),
        ),
    )
