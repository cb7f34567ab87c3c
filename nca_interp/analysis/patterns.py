"""What a viewer needs from checkpoints: attention patterns of chosen heads on real sequences, one NCA trajectory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from nca_interp.analysis.attention import Attention
from nca_interp.analysis.kernel import FAST, Layer, register
from nca_interp.analysis.stimuli import Batch, NotApplicable, Subject, natural, repeated_tokens
from nca_interp.analysis.subject import describe
from nca_interp.base import UserError
from nca_interp.model.checkpoint import load_model, read_provenance

LONGEST = 128
"""Tokens of an exported pattern."""
CHOSEN = {"induction": "induction", "previous_token": "previous token"}


class Patterns(NamedTuple):
    """Arrays [query, key] by key, and what each shows."""

    arrays: dict[str, np.ndarray]
    entries: list[dict[str, Any]]


def export_patterns(directory: Path, scores: pd.DataFrame) -> Patterns:
    """The heads of a checkpoint with the highest induction and previous-token score, each on one repeated-token sequence
    and one natural validation row. `scores`: the checkpoint's rows of the probes table."""
    provenance = read_provenance(directory)
    model = load_model(directory, attn=register())
    subject = describe(directory, model.config, provenance)
    batches: dict[str, Batch] = {}
    for name, stimulus in (
        ("repeated random tokens", repeated_tokens(sequences=2)),
        ("validation text", natural(sequences=2)),
    ):
        try:
            batches[name] = stimulus.build(subject)
        except NotApplicable:
            continue
    patterns = Patterns({}, [])
    who = {key: provenance.get(key) for key in ("run", "regime", "domain", "seed", "stage", "step")}
    for probe, title in CHOSEN.items():
        rows = scores[(scores.probe == probe) & scores["head"].notna()]
        if rows.empty:
            continue
        best = rows.iloc[int(rows.value.to_numpy().argmax())]
        layer, head = int(best["layer"]), int(best["head"])
        for shown, batch in batches.items():
            pattern = _pattern(model, batch, layer, head)
            key = f"{who['run']}-{probe}-{shown.split()[0]}".replace(".", "-")
            patterns.arrays[key] = pattern
            patterns.entries.append({
                "key": key, **who, "layer": layer, "head": head, "name": f"highest {title}, {shown}", "probe": probe,
                "score": float(best.value), "tokens": _labels(directory, batch.inputs[0, : len(pattern)], subject),
            })  # fmt: skip
    return patterns


def _pattern(model: Any, batch: Batch, layer: int, head: int) -> np.ndarray:
    one = Batch(batch.inputs[:1, :LONGEST], batch.targets[:1, :LONGEST])
    found: list[torch.Tensor] = []

    def sink(handed: Layer) -> None:
        if handed.number == layer:
            found.append(Attention.of(handed, one).pattern(head))

    with torch.inference_mode():
        model.base_model(input_ids=torch.from_numpy(one.inputs), use_cache=False, score_sink=sink)
    assert found, f"{FAST} was not called"
    return found[0].numpy().astype(np.float32)


def _labels(directory: Path, tokens: np.ndarray, subject: Subject) -> list[str]:
    """Text of each token where there is a tokenizer, else its number; NCA delimiters by name."""
    file = directory / "tokenizer.json"
    if file.is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(file))
        return [tokenizer.decode([int(t)], skip_special_tokens=False) for t in tokens]
    names = {}
    if (subject.spec or {}).get("kind") == "nca":
        names = {subject.vocab_size - 2: "<grid>", subject.vocab_size - 1: "</grid>"}
    return [names.get(int(t), str(int(t))) for t in tokens]


def export_trajectory(tokens_dir: Path, label: str) -> dict[str, Any] | None:
    """Frames and tokens of the first validation row of an NCA token file (the rule of median activity among 32)."""
    from nca_interp.data.gzip_score import gzip_ratio
    from nca_interp.data.nca import tokens_to_frames
    from nca_interp.data.specs import NcaSpec
    from nca_interp.data.tokens import TokenFile

    try:
        file = TokenFile.open(tokens_dir, verify=False)
    except UserError:
        return None
    if file.meta.spec.get("kind") != "nca":
        return None
    spec = NcaSpec.model_validate(file.meta.spec)
    rows = np.asarray(file.val[:32], dtype=np.int64)
    frames = [tokens_to_frames(spec, row) for row in rows]
    activity = [float((f[1:] != f[:-1]).mean()) for f in frames]
    chosen = int(np.argsort(activity)[len(activity) // 2])
    tokens = rows[chosen][: len(frames[chosen]) * spec.tokens_per_frame].reshape(-1, spec.tokens_per_frame)
    stored = np.dtype(file.meta.dtype).newbyteorder("<")
    return {
        "label": label, "n_states": spec.n_states, "grid": spec.grid, "patch": spec.patch, "tau": spec.tau,
        "frames": frames[chosen].tolist(), "tokens": tokens.tolist(), "gzip_ratio": gzip_ratio(rows[chosen].astype(stored).tobytes()),
        "description": f"{file.meta.description}. Of {len(rows)} validation rows the one with the median share of changing cells.",
    }  # fmt: skip
