"""What the player shows, out of player.json, player.npz and the tables: models, their stages, and the numbers of each checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.readers import check_object, damaged, read_arrays, read_json
from nca_interp.report.charts.theme import slot
from nca_interp.report.tables import Tables, each

ENTRY = {"key": str, "run": str, "regime": str, "stage": str, "steps": list, "tokens": list, "heads": list, "words": dict, "note": str}  # fmt: skip
"""What each run in player.json says at least."""
PROBES = (
    "nca_stencil", "induction", "nca_induction", "previous_token", "natural_induction_1", "duplicate_token", "dyck_opener", "nca_grid_time",
    "first_token", "entropy",
)  # fmt: skip
"""Probes whose maps are offered, in this order; heads are ranked by all but the last two: the highest of each, then the second, and so
on."""
MAPS, MAP_BYTES = 8, 100_000
"""Probes with a map, and bytes of all maps: of large models fewer probes, then fewer checkpoints."""


@dataclass(frozen=True)
class Stage:
    """One run of a model: its checkpoints on one sequence."""

    entry: dict[str, Any]
    arrays: dict[str, np.ndarray]
    clock: list[float]
    """Place of each checkpoint on the axis of training."""

    @property
    def n(self) -> int:
        """Checkpoints."""
        return len(self.entry["steps"])


@dataclass(frozen=True)
class Model:
    """A regime of a study, or a model from elsewhere."""

    name: str
    label: str
    slot: int
    stages: list[Stage]
    notes: list[str] = field(default_factory=list)
    """Why something of it is not shown."""


class Shown:
    """Everything that the player of a report needs."""

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.listing, self.stored = tables.dir.tables / "player.json", tables.dir.tables / "player.npz"
        self.mend = f"written again by: {tables.dir.analyze()}"

    @property
    def there(self) -> bool:
        """Whether anything was measured."""
        return self.listing.is_file() and self.stored.is_file()

    @cached_property
    def said(self) -> dict[str, Any]:
        """player.json; UserError where it is damaged."""
        found = check_object(
            self.listing, read_json(self.listing), self.mend, {"version": int, "runs": list, "left_out": list}
        )
        if found["version"] != 1:
            raise damaged(self.listing, f"version {found['version']}; this program reads 1", self.mend)
        return {**found, "runs": [check_object(self.listing, e, self.mend, ENTRY) for e in found["runs"]]}

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """By run, those that have a sequence."""
        stored, found = read_arrays(self.stored, self.mend), {}
        for entry in self.said["runs"]:
            if not entry["steps"]:
                continue
            try:
                arrays = {
                    name: stored[f"{entry['key']}-{name}"]
                    for name in ("attention", "truth", "top", "sure", "cells", "cells_sure")
                }
            except KeyError as error:
                raise damaged(self.stored, f"no array {error}", self.mend) from None
            if any(len(a) != len(entry["steps"]) for a in arrays.values()):
                raise damaged(self.stored, f"arrays of {entry['run']} do not fit {self.listing.name}", self.mend)
            found[entry["run"]] = Stage(entry, arrays, self._places(entry))
        return found

    @cached_property
    def clock(self) -> str:
        """What the axis of training counts: tokens where they are known of every checkpoint (of a study from the swap), else steps."""
        return "step" if any(t is None for e in self.said["runs"] for t in e["tokens"]) else "tokens"

    def origin(self, entry: dict[str, Any]) -> float:
        """Tokens at the swap, of a pre-pre-training in a study; elsewhere 0."""
        if self.tables.collection is not None or self.clock == "step" or entry["stage"] != "ppt":
            return 0.0
        return float(self.tables.runs.set_index("run").tokens.get(entry["run"], 0.0))

    def _places(self, entry: dict[str, Any]) -> list[float]:
        return [float(t) - self.origin(entry) for t in entry["steps" if self.clock == "step" else "tokens"]]

    @cached_property
    def models(self) -> list[Model]:
        """Models in the order of player.json, each with its pre-pre-training before language."""
        tables, found = self.tables, []
        if tables.collection is not None:
            for number_, entry in enumerate(self.said["runs"]):
                stages = [self.stages[entry["run"]]] if entry["run"] in self.stages else []
                found.append(
                    Model(
                        entry["run"],
                        tables.names.get(entry["run"], entry["run"]),
                        slot(number_),
                        stages,
                        _notes([entry]),
                    )
                )
            return found
        by_run = {e["run"]: e for e in self.said["runs"]}
        for entry in (e for e in self.said["runs"] if e["stage"] == "pt" or not self._followed(e)):
            chain = [by_run[r] for r in (entry["parent"], entry["run"]) if r in by_run]
            stages = [self.stages[e["run"]] for e in chain if e["run"] in self.stages]
            place = tables.main.index(entry["regime"]) if entry["regime"] in tables.main else 0
            found.append(Model(entry["regime"], tables.label(entry["regime"]), slot(place), stages, _notes(chain)))
        return found

    def _followed(self, entry: dict[str, Any]) -> bool:
        return any(e["parent"] == entry["run"] for e in self.said["runs"])

    @cached_property
    def probes(self) -> pd.DataFrame:
        """Rows of the probes table of the shown runs, of heads."""
        rows = self.tables.probes
        return rows[rows.run.isin(self.stages) & rows["head"].notna() & rows.value.notna()]

    @cached_property
    def mapped(self) -> list[str]:
        """Probes whose maps are offered."""
        known = list(dict.fromkeys(self.probes.probe))
        cells = sum(s.n * s.entry["shape"][0] * s.entry["shape"][1] for s in self.stages.values())
        return [p for p in (*PROBES, *known) if p in set(known)][: max(2, min(MAPS, MAP_BYTES // max(1, cells)))]

    @cached_property
    def map_steps(self) -> int:
        """Checkpoints of a stage, at most, at which there are maps."""
        heads = sum(s.entry["shape"][0] * s.entry["shape"][1] for s in self.stages.values())
        return max(2, MAP_BYTES // max(1, heads * len(self.mapped)))

    @cached_property
    def ranked(self) -> list[tuple[int, int]]:
        """Heads of which patterns are kept: the highest of each probe in each shown run at its end first."""
        kept = [tuple(h) for s in self.stages.values() for h in s.entry["heads"]]
        rows = self.probes[self.probes.probe.isin(PROBES[:-2])]
        rows = rows[rows.step == rows.groupby("run").step.transform("max")] if len(rows) else rows
        place = rows.groupby(["run", "probe"], sort=False).value.rank(method="first", ascending=False)
        order = rows.assign(place=place, kind=rows.probe.map({p: i for i, p in enumerate(PROBES)}))
        order = order.sort_values(["place", "kind"], kind="stable")
        first = [(int(r.layer), int(r.head)) for r in each(order)]
        return [h for h in dict.fromkeys([*first, *kept]) if h in set(kept)]


def causes(s: dict[str, Any], patch: int) -> set[int]:
    """Patches of a grid, by number, that hold the cells the rule reads for a patch of the next frame; the edges meet."""
    row, column = divmod(patch, s["columns"])
    near = range(-s["reach"], s["reach"] + 1)
    return {(row + r) % s["rows"] * s["columns"] + (column + c) % s["columns"] for r in near for c in near}


def targets(s: dict[str, Any]) -> np.ndarray:
    """Bool [query, key] of a sequence: on a grid what the rule reads for what comes next, in a text what followed an earlier occurrence of the
    query's token: x[key - 1] = x[query], key <= query."""
    n, ids = len(s["tokens"]), np.array(s["tokens"])
    found = np.zeros((n, n), dtype=bool)
    if s["kind"] == "text":
        found[:, 1:] = ids[:, None] == ids[None, :-1]
        return np.tril(found)
    patches = s["rows"] * s["columns"]
    width = patches + 2
    for frame in range(1, s["frames"]):
        for patch in range(patches):
            keys = [s["start"] + (frame - 1) * width + 1 + p for p in causes(s, patch)]
            found[s["start"] + frame * width + patch, keys] = True
    return found


def focus(codes: np.ndarray, s: dict[str, Any]) -> np.ndarray:
    """Attention [..., query] on `targets`, from codes [..., n (n + 1) / 2]: weights in 256 levels, summed."""
    n = len(s["tokens"])
    chosen = targets(s)[np.tril_indices(n)]
    weights = (codes.astype(np.float64) / 255) ** 2 * chosen
    starts = np.arange(n) * np.arange(1, n + 1) // 2
    return np.asarray(np.add.reduceat(weights, starts, axis=-1))


def _notes(entries: list[dict[str, Any]]) -> list[str]:
    return [f"{e['run']}: {e['note']}" for e in entries if e["note"]]
