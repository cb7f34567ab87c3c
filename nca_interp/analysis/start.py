"""What swap.json of every pre-training run says, as a tidy table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from nca_interp.analysis.collection.run import IDENTITY, Run
from nca_interp.readers import check_object, read_json

START = [*IDENTITY, "policy", "side", "layer", "quantity", "value", "unit", "n"]
SIDES = ("before", "after")


def policy_of(run: Run) -> str:
    """The swap policy of a pre-training run in words; empty for other stages."""
    return run.config.swap.words(run.config.model) if run.config is not None and run.stage == "pt" else ""


def start_table(runs: Iterable[Run]) -> pd.DataFrame:
    """START: `side` before (the parent at its end, on its own validation rows) or after (the network at step 0, on language).

    Runs that began before this was measured have no rows. UserError where a swap.json is damaged.
    """
    rows = [row for run in runs if run.stage == "pt" and run.trained is not None for row in _of_run(run)]
    return pd.DataFrame(rows, columns=START)


def _of_run(run: Run) -> Iterable[dict[str, Any]]:
    assert run.trained is not None
    path = run.trained.dir.path / "swap.json"
    if not path.is_file():
        return
    mend = run.trained.dir.anew()
    said = read_json(path, mend)
    if isinstance(said, list) and (said or run.parent is None):  # tensors that were replaced: of an earlier version
        return
    found = check_object(path, said, mend, {"policy": dict, "after": dict})
    for side in SIDES:
        for row in (found.get(side) or {}).get("rows", []):
            yield {**run.identity, "policy": policy_of(run), "side": side, **row}
