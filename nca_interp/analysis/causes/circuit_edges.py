"""Which circuits the weights hold: the strongest compositions of two heads, and of which kinds these heads are by their scores."""

from __future__ import annotations

from typing import Any

import pandas as pd

SHOWN = 10
"""Edges of each kind of composition."""
PLACE = ["run", "domain", "seed", "stage", "regime"]
COLUMNS = [
    *PLACE, "kind", "order", "from_layer", "from_head", "layer", "head", "value", "chance", "z", "from_kinds", "kinds",
]  # fmt: skip
TOP = 0.05
"""Share of a model's heads that count as of a kind where no random models were measured."""


def circuit_edges(causes: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """The SHOWN strongest compositions (by z, at offset 0) of each kind and run, with the kinds that both heads are of: the
    probes that they are hits of, or, where those are not known, among whose TOP best they are."""
    pairs = causes[
        causes["probe"].str.endswith("_composition") & (causes["at"] == "offset 0") & causes["value"].notna()
    ]
    rows = []
    for run, of_run in pairs.groupby("run", sort=False):
        kinds = kinds_of_heads(probes[(probes["run"] == run) & (probes["step"] == of_run["step"].iloc[0])])
        z = (of_run["value"] - of_run["chance"]) / of_run["sd"].where(of_run["sd"] > 0)
        for probe, group in of_run.assign(z=z).groupby("probe", sort=False):
            best = group.sort_values("z", ascending=False, kind="stable").head(SHOWN)
            for order, row in enumerate(best.to_dict("records"), 1):
                ends: dict[str, Any] = {
                    "from_kinds": (row["from_layer"], row["from_head"]),
                    "kinds": (row["layer"], row["head"]),
                }
                named: dict[str, str] = {name: " ".join(kinds.get(head, [])) for name, head in ends.items()}
                rows.append(
                    {**{str(k): v for k, v in row.items()}, **named, "kind": str(probe)[0].upper(), "order": order}
                )
    return pd.DataFrame(rows, columns=COLUMNS)


def kinds_of_heads(probes: pd.DataFrame) -> dict[tuple[int, int], list[str]]:
    """By head, the probes that it is a hit of."""
    of_heads = probes[probes["head"].notna() & probes["value"].notna()]
    found: dict[tuple[int, int], list[str]] = {}
    for probe, group in of_heads.groupby("probe", sort=True):
        if group["hit"].notna().any():
            hits = group[group["hit"] == 1]
        elif probe in UNTESTED:
            hits = group.nlargest(max(1, int(TOP * len(group))), "value")
        else:
            continue
        for layer, head in zip(hits["layer"], hits["head"], strict=True):
            found.setdefault((int(layer), int(head)), []).append(str(probe))
    return found


UNTESTED = ("previous_token", "induction")
"""Kinds of heads that are named also where no random models were measured."""


def sentence(edges: pd.DataFrame) -> str:
    """How many of the strongest K-compositions of one run are previous-token -> induction edges, and the first of them; empty
    where there are no K-compositions."""
    of_keys = edges[edges["kind"] == "K"]
    if of_keys.empty:
        return ""
    is_circuit = [
        "previous_token" in str(a).split() and "induction" in str(b).split()
        for a, b in zip(of_keys["from_kinds"], of_keys["kinds"], strict=True)
    ]
    n, found = len(of_keys), of_keys[is_circuit]
    told = f"{len(found)} of the {n} strongest K-compositions lead from a previous-token head to an induction head"
    if found.empty:
        return f"{told}."
    named = ", ".join(
        f"{r.from_layer}.{r.from_head} -> {r.layer}.{r.head} (z {r.z:.0f})" for r in found.head(3).itertuples()
    )
    return f"{told}: {named}{', ...' if len(found) > 3 else ''}."
