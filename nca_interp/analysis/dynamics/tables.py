"""Tables `emergence`, `persistence` and `timing` of a collection, from its tables of probes and of learning."""

from __future__ import annotations

import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.dynamics.contrasts import timing_table
from nca_interp.analysis.dynamics.emergence import emergence_table
from nca_interp.analysis.dynamics.persistence import persistence_table
from nca_interp.analysis.probing.engine import choose
from nca_interp.analysis.probing.null_study import null_maxima
from nca_interp.measurement import Asked


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """What can be said of the courses of heads over training."""
    hits = {name: d.value.hit for name, d in choose(None, asked.probes)[0].items() if d.value.hit is not None}
    runs, maxima = list(collection.runs), null_maxima(collection)
    emergence = emergence_table(runs, tables["probes"], tables["learning"], hits, maxima)
    persistence = persistence_table(runs, tables["probes"], hits, maxima)
    return {
        "emergence": emergence,
        "persistence": persistence,
        "timing": timing_table(collection.roles, tables["runs"], emergence, persistence),
    }
