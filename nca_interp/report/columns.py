"""The columns of the tables that a report reads, and their cells by type."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from nca_interp.borders import reason
from nca_interp.measurement import measurements
from nca_interp.readers import damaged, read_cells

_TEXT = {
    "run", "regime", "label", "role", "domain", "stage", "state", "source", "description", "note", "precision", "probe", "unit",
    "checkpoint_sha256", "by", "site", "how", "at", "family", "metric", "treated", "control", "verdict", "rules", "predictor", "quantity", "rival", "sentence", "budget", "kind", "measure", "why",
    "comparison", "regime_a", "regime_b", "run_a", "tensor", "attribute",
    "lost", "pending", "hangs_on", "target_of", "item", "declared", "now", "model", "text", "text_sha256", "prefix", "order", "ppt_run", "half_state", "one_stage", "one", "other",
}  # fmt: skip
_TRUTH = {"primary", "chosen", "counted", "changed", "inferred", "uses_context", "same_setting"}
COLUMNS: dict[str, str] = {
    "runs": "run regime label role domain seed stage state steps tokens ppt_tokens params vocab_size source description "
    "flops tokens_per_second spikes nonfinite skipped precision checkpoint_sha256",
    "metrics": "run regime domain seed stage step tokens loss val_loss val_bpb grad_norm lr tokens_per_second",
    "contrasts": "family domain metric treated control primary n planned effect low high low_all high_all p p_holm p_exact "
    "p_exact_floor comparisons margin detectable ppl_change_pct verdict lost pending hangs_on later_n sentence",
    "pairs": "family domain metric treated control seed treated_value control_value difference counted",
    "pooled": "family metric treated control domains n effect low high smallest largest model sentence",
    "plan": "item declared now changed",
    "claims": "claim:text says:text source domain verdict effect low high zero unit n judged:text? sentence change:text evidence:text",
    "speedup": "domain regime seed budget target_loss target_of speedup",
    "speedups": "domain regime budget n speedup low high sentence",
    "complexity": "source label kind regime domain n_states band_low band_high measure value unit n sd",
    "reasoning": "run regime domain seed n_train n_test correct accuracy low high",
    "start": "run regime domain seed stage policy:text side:text layer quantity value unit n",
    "scratches": "domain regime n loss chosen",
    "transfer": "domain regime question:text mode:text parts:text layers:text heads:text instead:text against:text full:text n effect low high gap "
    "gap_low gap_high share share_low share_high verdict sentence",
    "transfer_seeds": "domain regime question:text seed effect gap",
    "shapley": "domain regime instead:text quantity term:text n effect low high gap gap_low gap_high share share_low share_high sentence",
    "shapley_seeds": "domain regime instead:text quantity term:text seed effect gap",
    "notes": "source description note",
    "published": "domain metric regime published ours ours_low ours_high same_setting why source",
}
"""Columns of the tables that no measurement brings (docs/tables.md). `:text`: read as text; `?`: a table of an earlier version lacks it,
and its cells are empty then."""


def columns_of() -> dict[str, str]:
    """Columns by table: those of training, and those of every measurement."""
    return COLUMNS | {name: columns for one in measurements().values() for name, columns in one.columns.items()}


def read_typed(path: Path, spec: str, mend: str) -> pd.DataFrame:
    """The columns of `spec` of one table, each of its type; no rows where there is no such file. UserError says what is wrong."""
    words = [word.removesuffix("?") for word in spec.split()]
    columns = [word.partition(":")[0] for word in words]
    text = {word.partition(":")[0] for word in words if word.endswith(":text")}
    if not path.is_file():
        return _typed(pd.DataFrame({c: pd.Series(dtype=str) for c in columns}), path, text, mend)
    later = {word.partition(":")[0] for word in spec.split() if word.endswith("?")}
    if later:
        cells = read_cells(path, None, mend)
        later -= set(cells.columns)
    found = read_cells(path, [name for name in columns if name not in later], mend)
    return _typed(found.assign(**dict.fromkeys(later, ""))[columns], path, text, mend)


def _typed(frame: pd.DataFrame, path: Path, text: set[str], mend: str) -> pd.DataFrame:
    typed: dict[str, pd.Series] = {}
    for column in frame.columns:
        if column in _TEXT or column in text:
            typed[column] = frame[column].astype(object)
        elif column in _TRUTH:
            typed[column] = frame[column].str.strip().str.lower().isin({"true", "1", "1.0", "yes"})
        else:
            try:
                typed[column] = pd.to_numeric(frame[column].replace("", None)).astype(float)
            except (ValueError, TypeError) as error:
                raise damaged(path, f"column {column}: {reason(error)}", mend) from None
    return pd.DataFrame(typed)
