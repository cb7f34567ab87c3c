"""Kept tables of probes, brought up to date probe by probe: one whose file changed is measured again, no other is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nca_interp.analysis.cache import write_table
from nca_interp.analysis.probing.measure import Measured, Measurer
from nca_interp.analysis.probing.table import read_table, table
from nca_interp.base import UserError
from nca_interp.store import read_json, write_json

HEADER = ("engine", "probes", "problems", "skipped")
"""What every header says: the code that measured, each probe's file's hash, what went wrong, what does not apply and why."""


class Refreshed(NamedTuple):
    """What `refresh` did."""

    changed: bool
    """Whether anything was measured."""
    header: dict[str, Any]
    """What stands beside the table: what it was made from, and HEADER."""


def refresh(
    path: Path, measurer: Measurer, made_from: dict[str, Any], measure: Callable[[Measurer], Measured]
) -> Refreshed:
    """Bring a kept table of probes up to date: `measure` what was made from something else or by another probe file, keep
    the rest."""
    hashes, old = measurer.hashes, read_header(path)
    fresh = old is not None and made_from.items() <= old.items()
    done = {name for name, sha in old["probes"].items() if hashes.get(name) == sha} if fresh and old else set()
    if done == set(hashes) and old is not None and done == set(old["probes"]):
        return Refreshed(False, old)
    missing = measurer.only(set(hashes) - done)
    measured = measure(missing) if missing.hashes else Measured([], {}, {})
    frame = table(measured.rows)
    if done:
        before = read_table(path)
        before = before[before.probe.isin(done)]
        frame = pd.concat([before, frame], ignore_index=True) if len(frame) else before
    frame = frame.sort_values("probe", kind="stable")

    def merged(part: str, new: dict[str, str]) -> dict[str, str]:
        return {**{k: v for k, v in (old or {}).get(part, {}).items() if k in done}, **new}

    header = {
        **made_from,
        "probes": hashes,
        "stimuli": {name: p.stimulus.args for name, p in measurer.probes.items()},
        "thresholds": {name: p.hit for name, p in measurer.probes.items()},
        "problems": merged("problems", measured.problems),
        "skipped": merged("skipped", measured.skipped),
        "tokens": measured.tokens or (old or {}).get("tokens"),
    }
    write_table(path, frame)
    write_json(path.with_suffix(".json"), header)
    return Refreshed(True, header)


def read_header(path: Path) -> dict[str, Any] | None:
    """What stands beside a kept table of probes; None where there is none, or it is damaged."""
    file = path.with_suffix(".json")
    if not (file.is_file() and path.is_file()):
        return None
    try:
        header = read_json(file)
    except UserError:
        return None  # damaged: measure again
    return header if isinstance(header, dict) and header.keys() >= set(HEADER) else None
