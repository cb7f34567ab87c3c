"""The terminal's summary of causes fits 80 columns at the size of a real model, and says the circuit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd

from nca_interp.analysis.causes.circuit_edges import COLUMNS as EDGES
from nca_interp.analysis.causes.summary import summary
from nca_interp.analysis.causes.table import as_table
from nca_interp.cli.show import print_table
from nca_interp.measurement import Shown

LOSS = "repeated_token_loss"


def _tables() -> dict[str, pd.DataFrame]:
    heads = " ".join(f"{n}.8" for n in range(20, 26))
    rows: list[dict[str, Any]] = [
        {"probe": "ablation", "metric": LOSS, "site": "head", "layer": 20 + n, "head": 8, "rank": n + 1, "value": 6.98, "sd": 0.5, "full": 10.1234}
        for n in range(24)
    ]  # fmt: skip
    rows += [
        {"probe": "top_heads", "metric": LOSS, "by": by, "value": 7.0123, "chance": 0.1, "p": 0.111, "n": 8, "at": f"{heads} against 8 sets"}
        for by in ("induction_repeat_3", "previous_token")
    ]  # fmt: skip
    rows += [
        {"probe": "attribution_check", "metric": metric, "by": by, "value": 0.87, "n": 12}
        for metric in (LOSS, "in_context_learning") for by in ("top heads", "random heads")
    ]  # fmt: skip
    rows += [{"probe": "cross_task", "metric": LOSS, "by": "own_loss", "value": 0.5, "p": 0.001, "n": 270}]
    edge = {
        "run": "SmolLM2-135M",
        "from_layer": 17,
        "from_head": 8,
        "layer": 18,
        "head": 7,
        "value": 0.18,
        "chance": 0.044,
    }
    kinds = {"from_kinds": "locality previous_token", "kinds": "copying induction induction_repeat_3"}
    edges = [{**edge, **kinds, "kind": k, "order": n, "z": 43.97} for k in "QKV" for n in range(1, 11)]
    causes = as_table([{"run": "SmolLM2-135M", **row} for row in rows])
    return {"causes": causes, "circuit_edges": pd.DataFrame(edges, columns=EDGES)}


def test_it_fits_80_columns_and_names_the_circuit(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run = SimpleNamespace(id="SmolLM2-135M", label="SmolLM2-135M")
    for part in summary(SimpleNamespace(study=None, runs=[run]), _tables()):  # type: ignore[arg-type]
        if isinstance(part, Shown):
            print_table(part.title, part.columns, part.rows, part.left)
        else:
            print(part)
    said = capsys.readouterr().out
    assert max(len(line.rstrip()) for line in said.splitlines()) <= 80
    flat = " ".join(said.split())
    assert "10 of the 10 strongest K-compositions lead from a previous-token head to an induction head" in flat
    assert "17.8 -> 18.7 (z 44)" in flat
    assert (
        f"rank correlation of attribution with exact ablation: {LOSS} 0.87 (12 top heads), 0.87 (12 random heads)"
        in flat
    )
    assert "25.8" not in said.partition("ablated together")[0]  # the first of 24 heads only
    assert "…" not in said
