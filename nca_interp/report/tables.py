"""The tables of a study as a report reads them: checked columns, typed cells, labels and order of regimes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.base import UserError
from nca_interp.store import StudyDir, read_json, sha256_file

_TEXT = {
    "run", "regime", "label", "role", "domain", "stage", "state", "source", "description", "precision", "probe", "unit",
    "checkpoint_sha256", "by", "site", "how", "at", "family", "metric", "treated", "control", "verdict", "rules", "predictor", "quantity", "rival", "sentence", "budget", "kind", "measure", "why",
    "comparison", "regime_a", "regime_b", "run_a", "tensor", "attribute",
    "lost", "pending", "hangs_on", "target_of", "item", "declared", "now", "model", "order", "ppt_run", "half_state", "one_stage", "one", "other",
}  # fmt: skip
_TRUTH = {"primary", "counted", "changed", "same_setting"}
COLUMNS: dict[str, str] = {
    "runs": "run regime label role domain seed stage state steps tokens ppt_tokens params vocab_size source description "
    "flops tokens_per_second spikes nonfinite skipped precision checkpoint_sha256",
    "metrics": "run regime domain seed stage step tokens loss val_loss val_bpb grad_norm lr tokens_per_second",
    "probes": "run regime domain seed stage step tokens probe layer head value chance null_95 hit sd unit n",
    "hits": "run regime domain seed stage step tokens probe heads models threshold null_95 best top_mean hits hits_fdr fdr_least",
    "causes": "run regime domain seed stage step tokens probe layer head value chance sd unit n metric by site how full rank worse p "
    "from_layer from_head at",
    "score_harm": "domain stage regime probe metric rho low high p p_bh seeds heads verdict",
    "top_sets": "domain stage regime probe metric effect random random_low random_high excess low high p p_bh seeds sets at "
    "margin unit verdict",
    "shared_heads": "domain stage regime one_stage one other rho low high p p_holm seeds heads verdict",
    "contrasts": "family domain metric treated control primary n planned effect low high low_all high_all p p_holm p_exact "
    "p_exact_floor comparisons margin detectable ppl_change_pct verdict lost pending hangs_on later_n sentence",
    "pairs": "family domain metric treated control seed treated_value control_value difference counted",
    "pooled": "family metric treated control domains n effect low high smallest largest model sentence",
    "plan": "item declared now changed",
    "speedup": "domain regime seed budget target_loss target_of speedup",
    "speedups": "domain regime budget n speedup low high sentence",
    "complexity": "source label kind regime domain n_states band_low band_high measure value unit n sd",
    "reasoning": "run regime domain seed n_train n_test correct accuracy low high",
    "inference": "run regime domain seed stage step rules band_low band_high predictor frame quantity value low high n",
    "learned": "run regime domain seed stage step verdict accuracy rival rival_accuracy effect low high n oracle_accuracy "
    "teacher_accuracy first_frame last_frame slope slope_low slope_high gain gain_low gain_high swap swap_low swap_high "
    "shuffle shuffle_low shuffle_high sentence",
    "alike": "domain regime_a regime_b layer across ceiling effect low high margin n verdict sentence",
    "similarity": "comparison domain regime_a regime_b seed_a seed_b run_a step_a tokens layer_a layer_b value n",
    "streams": "run regime domain seed stage step tokens layer effective_rank participation n",
    "weights": "run regime domain seed stage step tensor kind layer displacement",
    "updates": "comparison domain regime_a regime_b seed tensor kind layer cosine",
    "decode": "run regime domain seed stage step attribute frames source layer spearman low high r2 n",
    "decoded": "run regime domain seed stage step attribute verdict frames layer spearman low high rival rival_spearman "
    "effect effect_low effect_high n sentence",
    "learning": "run regime domain seed stage step tokens predictor quantity value low high n",
    "emergence": "run regime domain seed stage probe level state after_step by_step after_tokens by_tokens first last highest checkpoints "
    "resolution bend bend_low bend_high distance_low distance_high order",
    "persistence": "run regime domain seed stage probe ppt_run heads level chance ppt_highest swap_highest end_highest best "
    "persisted share best_ppt best_swap best_end rho p scratch_rho half_state half_after half_by",
    "timing": "family domain stage probe treated control budget n effect low high earlier later p verdict sentence",
    "published": "domain metric regime published ours ours_low ours_high same_setting why source",
}
"""Columns of each table (docs/tables.md)."""
REQUIRED = ("runs", "metrics")
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


class Tables:
    """Everything a report may use: `tables.contrasts` and the others are data frames, empty where the file is missing."""

    def __init__(self, study_dir: Path) -> None:
        self.dir = StudyDir.open(study_dir)
        self.study: dict[str, Any] = self.dir.read_config()
        self.provenance: dict[str, Any] = self.dir.read_provenance()
        for name in REQUIRED:
            if not self.dir.table(name).is_file():
                raise UserError(f"{self.dir.table(name)}: no such table; run `nca-interp analyze {study_dir}` first")
        self._frames = {name: _read(self.dir.table(name), columns.split()) for name, columns in COLUMNS.items()}

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
        """All regimes with a run, in the study's order."""
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
        """Rows of `probes` of every head of the compared regimes at the end of a finished pre-training."""
        rows = self.probes[
            self.probes["head"].notna() & (self.probes.stage == "pt") & self.probes.regime.isin(self.main)
        ]
        rows = rows[rows.run.isin(self.finished)]
        return rows[rows.step == rows.groupby("run").step.transform("max")]

    def since_swap(self, rows: pd.DataFrame) -> pd.DataFrame:
        """`rows` with tokens counted from the embedding swap: pre-pre-training is negative."""
        length = self.runs[self.runs.stage == "ppt"].set_index("run").tokens
        offset = rows.run.map(length).where(rows.stage == "ppt", 0.0).fillna(0.0)
        return rows.assign(tokens=rows.tokens - offset)

    @property
    def n_seeds(self) -> int:
        """Replications the study asks for."""
        return len(self.study["seeds"])

    def label(self, regime: str) -> str:
        """A regime's name in words."""
        return self.regimes[regime].label if regime in self.regimes else regime

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
        entries = read_json(listing)
        try:
            with np.load(arrays, allow_pickle=False) as stored:
                return [
                    Exhibit(e, stored[f"{e['key']}-thumbnails"], {(w[0], w[1]): p for w, p in zip(e["whole"], stored[f"{e['key']}-whole"], strict=True)})
                    for e in entries
                ]  # fmt: skip
        except (KeyError, ValueError) as error:
            raise UserError(f"{listing}: not as expected ({error}); run `nca-interp analyze` again") from None

    @cached_property
    def trajectory(self) -> dict[str, Any] | None:
        """Frames and tokens of one NCA rule, or None."""
        path = self.dir.tables / "trajectory.json"
        return read_json(path) if path.is_file() else None

    @cached_property
    def probe_docs(self) -> list[dict[str, Any]]:
        """Definition of each probe: name, doc, unit, low, high."""
        path = self.dir.tables / "probes.json"
        return read_json(path) if path.is_file() else []

    def hashes(self) -> dict[str, str]:
        """SHA-256 of every file the report was made from."""
        return {p.name: sha256_file(p) for p in sorted(self.dir.tables.glob("*")) if p.is_file()}


def each(frame: pd.DataFrame) -> Iterator[Any]:
    """Rows as named tuples; their fields have the types that `Tables` checked, which pandas cannot know."""
    return iter(frame.itertuples())


def _read(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.is_file():
        return _typed(pd.DataFrame({c: pd.Series(dtype=str) for c in columns}), path)
    try:
        # every cell as text first: a regime may be called "nan" or "none"
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not readable as a table ({error}); run `nca-interp analyze` again") from None
    missing = [c for c in columns if c not in frame.columns]
    if missing:
        raise UserError(f"{path}: column {', '.join(missing)} is missing; run `nca-interp analyze` again")
    return _typed(frame[columns], path)


def _typed(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    typed: dict[str, pd.Series] = {}
    for column in frame.columns:
        if column in _TEXT:
            typed[column] = frame[column].astype(object)
        elif column in _TRUTH:
            typed[column] = frame[column].str.strip().str.lower().isin({"true", "1", "1.0", "yes"})
        else:
            try:
                typed[column] = pd.to_numeric(frame[column].replace("", None)).astype(float)
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}: column {column}: {error}; run `nca-interp analyze` again") from None
    return pd.DataFrame(typed)
