"""The tables of a study as a report reads them: labels, order of regimes, and what stands beside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.borders import reason
from nca_interp.readers import check_object, damaged, read_arrays, read_json, read_object
from nca_interp.report.charts.timelines import SINCE_SWAP
from nca_interp.report.columns import columns_of, read_typed
from nca_interp.rows import each as each
from nca_interp.store import AnalysisDir, StudyDir, sha256_file

REQUIRED = ("runs", "metrics")
ENTRY = {"key": str, "run": str, "stage": str, "step": int, "shown": str, "tokens": list, "whole": list}
"""What each entry of patterns.json says at least."""
TRAJECTORY: dict[str, Any] = {"n_states": int, "frames": list, "tokens": list, "description": str}
"""What trajectory.json says at least."""
SCRATCH = "scratch"


@dataclass(frozen=True)
class RegimeInfo:
    """A regime as the report names it."""

    name: str
    label: str
    role: str


@dataclass(frozen=True)
class Exhibit:
    """The attention of every head of one checkpoint on one sequence."""

    entry: dict[str, Any]
    """key, run, regime, domain, seed, stage, step, shown, tokens (docs/tables.md)."""
    thumbnails: np.ndarray
    """[layer, head, side, side]: largest attention in each block of queries and keys."""
    patterns: dict[tuple[int, int], np.ndarray]
    """(layer, head) -> [query, key], of the heads that were exported whole."""


def _named(collection: dict[str, Any]) -> dict[str, Any]:
    """What was asked, with the user's files by the name that they have here: a page is shown to others."""

    def name(path: str | None) -> str | None:
        if path is None or not Path(path).is_absolute():
            return path
        inside = Path(path).is_relative_to(Path.cwd())
        return str(Path(path).relative_to(Path.cwd())) if inside else Path(path).name

    settings = dict(collection["settings"])
    settings |= {key: name(settings.get(key)) for key in ("tokens", "tokenizer")}
    settings["text"] = [name(path) for path in settings.get("text", ())]
    return {**collection, "settings": settings}


class Tables:
    """Everything a report may use: `tables.contrasts` and the others are data frames, empty where the file is missing."""

    def __init__(self, study_dir: Path) -> None:
        self.dir = AnalysisDir(study_dir)
        if self.dir.collection.is_file():
            saved = self.dir.read_collection()
            self.collection: dict[str, Any] | None = _named(saved["collection"])
            title = saved["collection"]["title"]
            self.study: dict[str, Any] = {"title": title, "regimes": [], "domains": [], "seeds": []}
            self.provenance: dict[str, Any] = saved["provenance"]
        else:
            study = StudyDir.open(study_dir)
            self.collection, self.study, self.provenance = None, study.read_config(), study.read_provenance()
        self._mend = f"written again by: {self.dir.analyze()}"
        self.dir.check_tables()
        for name in REQUIRED:
            if not self.dir.table(name).is_file():
                raise damaged(self.dir.table(name), "no such table", self._mend)
        self._frames = {name: read_typed(self.dir.table(name), spec, self._mend) for name, spec in columns_of().items()}

    def __getattr__(self, name: str) -> pd.DataFrame:
        frames = self.__dict__.get("_frames", {})
        if name not in frames:
            raise AttributeError(name)
        return frames[name]

    def has(self, *names: str) -> bool:
        """Whether all these tables hold at least one row."""
        return all(not self._frames[name].empty for name in names)

    @cached_property
    def regimes(self) -> dict[str, RegimeInfo]:
        """All regimes with a run, in the study's order, or in that of the checkpoints."""
        found = {r["name"]: RegimeInfo(r["name"], r["label"], r.get("role", "regime")) for r in self.study["regimes"]}
        for row in each(self.runs.drop_duplicates("regime")):
            found.setdefault(str(row.regime), RegimeInfo(str(row.regime), str(row.label), str(row.role)))
        present = set(self.runs.regime)
        return {name: info for name, info in found.items() if name in present}

    @cached_property
    def main(self) -> list[str]:
        """Regimes compared with each other (role `regime` or `control`): scratch, the studied one, then the others."""
        return sorted(self._compared, key=lambda n: (n != SCRATCH, n != self.reference))

    @property
    def _compared(self) -> list[str]:
        return [n for n, info in self.regimes.items() if info.role in ("regime", "control")]

    @cached_property
    def domains(self) -> dict[str, str]:
        """Domain name -> label, in the study's order, of those with a run."""
        found = {d["name"]: d["label"] for d in self.study["domains"]}
        present = [d for d in self.runs.domain.unique() if d]
        return {d: found.get(d, d) for d in [*found, *present] if d in present}

    @cached_property
    def finished(self) -> set[str]:
        """Names of the runs that ended as planned; no other run enters a mean."""
        return set(self.runs[self.runs.state == "done"].run)

    @cached_property
    def final(self) -> pd.DataFrame:
        """Last validation of every finished pre-training run: run, regime, domain, seed, tokens, val_loss, val_bpb."""
        rows = self.metrics[
            (self.metrics.stage == "pt") & self.metrics.val_loss.notna() & self.metrics.run.isin(self.finished)
        ]
        return rows.sort_values("step").groupby("run", sort=False).tail(1)

    @cached_property
    def final_scores(self) -> pd.DataFrame:
        """Rows of `probes` of every head of the compared regimes at the end of a finished pre-training, or of the last
        checkpoint of each run that comes from elsewhere."""
        stage = self.probes.stage == "pt" if self.collection is None else self.probes.stage != "ft"
        rows = self.probes[self.probes["head"].notna() & stage & self.probes.regime.isin(self.main)]
        rows = rows[rows.run.isin(self.finished)]
        return rows[rows.step == rows.groupby("run").step.transform("max")]

    def since_swap(self, rows: pd.DataFrame) -> pd.DataFrame:
        """`rows` with tokens counted from the embedding swap: pre-pre-training is negative."""
        length = self.runs[self.runs.stage == "ppt"].set_index("run").tokens
        offset = rows.run.map(length).where(rows.stage == "ppt", 0.0).fillna(0.0)
        return rows.assign(tokens=rows.tokens - offset)

    def clock(self, rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
        """`rows` with `tokens` as an axis of training has them, and its title: since the embedding swap; of checkpoints from
        elsewhere the training tokens where all are known, else the steps."""
        if self.collection is None:
            return self.since_swap(rows), SINCE_SWAP
        if len(rows) and rows.tokens.notna().all():
            return rows, "training tokens"
        return rows.assign(tokens=rows.step), "training step"

    def series(self, run: str) -> bool:
        """Whether more than one checkpoint of a run was measured."""
        return bool(self.probes[self.probes.run == run].step.nunique() > 1)

    @property
    def n_seeds(self) -> int:
        """Replications the study asks for."""
        return len(self.study["seeds"])

    def label(self, regime: str) -> str:
        """A regime's name in words."""
        return self.regimes[regime].label if regime in self.regimes else regime

    @cached_property
    def names(self) -> dict[str, str]:
        """Run -> its label where no other run has it, else its name."""
        shared = self.runs.label.duplicated(keep=False) | (self.runs.label == "")
        return dict(zip(self.runs.run, self.runs.label.mask(shared, self.runs.run), strict=True))

    @cached_property
    def head_facts(self) -> pd.DataFrame:
        """What measurements say of single heads in words: run, layer, head, group (a heading), fact, text; of all tables that
        have these columns."""
        columns = ["run", "layer", "head", "group", "fact", "text"]
        found = [f[columns] for f in self._frames.values() if len(f) and set(columns) <= set(f.columns)]
        return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)

    def domain_label(self, domain: str) -> str:
        """A domain's name in words."""
        return self.domains.get(domain, domain or "all domains")

    @cached_property
    def reference(self) -> str:
        """The regime that the study is about: the treated one of the planned contrasts, else the first that is not scratch."""
        planned = self.contrasts[self.contrasts.family == "regime"]
        if len(planned):
            return str(planned.treated.iloc[0])
        return next((name for name in self._compared if name != SCRATCH), SCRATCH)

    def contrast(self, family: str, **where: str) -> pd.DataFrame:
        """Validation-loss rows of one family of `contrasts` (all metrics if there is no loss among them)."""
        return self._loss_rows(self.contrasts, family, where)

    def paired(self, family: str, **where: str) -> pd.DataFrame:
        """The seeds behind `contrast`."""
        return self._loss_rows(self.pairs, family, where)

    def _loss_rows(self, frame: pd.DataFrame, family: str, where: dict[str, str]) -> pd.DataFrame:
        rows = self.of_family(frame, family)
        for column, value in where.items():
            rows = rows[rows[column] == value]
        loss = rows[rows.metric.str.contains("loss")]
        return loss if len(loss) else rows

    def of_family(self, frame: pd.DataFrame, family: str) -> pd.DataFrame:
        """Rows of `contrasts` or `pairs` that a family is told by: its own, and of transfer and complexity the whole effect."""
        own = frame.family == family
        if family not in ("transfer", "complexity") or not own.any():
            return frame[own]
        whole = (frame.family == "regime") & (frame.treated == self.reference) & (frame.control == SCRATCH)
        return frame[own | (whole & frame.domain.isin(frame[own].domain))]

    @cached_property
    def exhibits(self) -> list[Exhibit]:
        """Checkpoints and sequences whose attention is shown; UserError for files of an earlier version."""
        listing, arrays = self.dir.tables / "patterns.json", self.dir.tables / "patterns.npz"
        if not (listing.is_file() and arrays.is_file()):
            return []
        entries = [check_object(listing, e, self._mend, ENTRY) for e in self._list(listing)]
        stored = read_arrays(arrays, self._mend)
        try:
            return [
                Exhibit(e, stored[f"{e['key']}-thumbnails"], {(w[0], w[1]): p for w, p in zip(e["whole"], stored[f"{e['key']}-whole"], strict=True)})
                for e in entries
            ]  # fmt: skip
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise damaged(listing, f"does not fit {arrays.name} ({reason(error)})", self._mend) from None

    @cached_property
    def trajectory(self) -> dict[str, Any] | None:
        """Frames and tokens of one NCA rule, or None."""
        path = self.dir.tables / "trajectory.json"
        return read_object(path, self._mend, **TRAJECTORY) if path.is_file() else None

    @cached_property
    def probe_docs(self) -> list[dict[str, Any]]:
        """Definition of each probe: name, doc, unit, low, high."""
        path = self.dir.tables / "probes.json"
        if not path.is_file():
            return []
        return [check_object(path, one, self._mend, {"name": str, "doc": str, "unit": str}) for one in self._list(path)]

    def _list(self, path: Path) -> list[Any]:
        found = read_json(path, self._mend)
        if not isinstance(found, list):
            raise damaged(path, "a JSON list is expected", self._mend)
        return found

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file the report was made from."""
        return {p.name: sha256_file(p) for p in sorted(self.dir.tables.glob("*")) if p.is_file()}
