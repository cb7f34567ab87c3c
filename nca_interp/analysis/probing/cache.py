"""Kept tables of probes, brought up to date probe by probe: one whose file changed is measured again, no other is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from nca_interp.analysis.cache import lost, write_table
from nca_interp.analysis.probing.measure import Measured, Measurer
from nca_interp.analysis.probing.table import read_table, table
from nca_interp.readers import read_object
from nca_interp.store import sha256_file, write_record

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
    write_record(path.with_suffix(".json"), header | {"sha256": sha256_file(path)})
    return Refreshed(True, header)


def read_header(path: Path) -> dict[str, Any] | None:
    """What stands beside a kept table of probes; None where there is none, or it is damaged."""
    if lost(path):
        return None  # measured again
    header = read_object(path.with_suffix(".json"))
    return header if header.keys() >= set(HEADER) else None
