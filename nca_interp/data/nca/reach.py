"""Whether any random rule lies in a band and its filters, asked before a study is begun."""

from __future__ import annotations

from nca_interp.data.nca.rows import Search, search
from nca_interp.data.specs import NcaSpec


def check_reach(spec: NcaSpec) -> None:
    """UserError if no random rule lies in the band and the filters of a specification, as far as a search for one shows."""
    if spec.band is not None or spec.where:
        for _ in search(spec, 0, "reach", 1, 0, None, Search()):
            pass
