"""How far the weights of two models of one shape lie apart, tensor by tensor."""

from __future__ import annotations

import math

import pandas as pd

from nca_interp.analysis.similarity.weights import Tensors
from nca_interp.model.roles import RoleOf, named_role

COLUMNS = ["tensor", "kind", "layer", "distance", "cosine"]


def distances(first: Tensors, second: Tensors, role: RoleOf = named_role) -> pd.DataFrame:
    """One row a tensor that both hold in one shape: |second - first| / |first| (0: equal; 1.41: unrelated, of one size) and the
    cosine of the two (1: one direction; NaN where one of them is zero)."""
    rows = []
    for name in first:
        other = second.get(name)
        if other is None:
            continue
        a, b = first[name].detach().double().flatten(), other.detach().double().flatten()
        if first[name].shape != other.shape:
            continue
        sizes = float(a.norm()), float(b.norm())
        distance = float((b - a).norm()) / sizes[0] if sizes[0] > 0 else math.nan
        cosine = float(a @ b) / (sizes[0] * sizes[1]) if min(sizes) > 0 else math.nan
        rows.append([name, *role(name), distance, cosine])
    return pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64"})
