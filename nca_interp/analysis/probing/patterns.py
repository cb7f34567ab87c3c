"""What a viewer needs from checkpoints: the attention of every head on real sequences, one NCA trajectory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from nca_interp.analysis.attention.access import backbone, reading
from nca_interp.analysis.attention.forward import in_place
from nca_interp.analysis.attention.kernel import Layer
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.collection.collection import Settings
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.stimuli.base import Batch, NotApplicable, Stimulus, Subject, natural, repeated_tokens
from nca_interp.analysis.stimuli.own_text import own_texts
from nca_interp.analysis.stimuli.subject import describe
from nca_interp.base import UserError
from nca_interp.model.checkpoint import read_provenance

LONGEST = 128
"""Tokens of an exported pattern."""
WHOLE = 32
"""Heads whose whole pattern is exported, for each checkpoint and sequence: some 7 kB each in a page. A model that has no
more heads shows them all, another the highest of each probe."""
WHOLE_CELLS = 2_600_000
"""Cells of all whole patterns of a page: half a byte each in it. Where more sequences or models are shown, fewer heads are whole."""
FEWEST = 8
"""Heads whose pattern is whole in any case."""
TEXTS = 3
"""The user's texts that are shown."""
SIDE = 32
"""Largest side of a thumbnail."""
THUMBNAIL_CELLS = 160_000
"""Cells of all thumbnails of one checkpoint on one sequence: 156 heads of 32 x 32, 384 of 20 x 20."""


class Exhibit(NamedTuple):
    """Every head of one checkpoint on one sequence."""

    entry: dict[str, Any]
    """key, run, regime, domain, seed, stage, step, shown (what the sequence is), tokens (text of each), whole (places
    [layer, head] of `patterns`, in their order)."""
    thumbnails: np.ndarray
    """float16 [layer, head, side, side]: largest attention in each block of queries and keys."""
    patterns: np.ndarray
    """float16 [one of `whole`, query, key]."""


def export_patterns(
    directory: Path,
    scores: pd.DataFrame,
    sequences: dict[str, Stimulus] | None = None,
    settings: Settings | None = None,
    who: dict[str, Any] | None = None,
    limit: int = WHOLE,
) -> list[Exhibit]:
    """All heads of a checkpoint on the first row of each sequence that it can take (default: random tokens twice, a validation
    row, the texts of `settings`). `scores`: the checkpoint's rows of the probes table; they choose whose pattern is exported whole, of
    at most `limit` heads. `who`: its identity (default: as its provenance has it). Holds the attention of one layer at a time."""
    provenance, settings = read_provenance(directory), settings or Settings()
    model = open_last(directory, settings.device, settings.dtype)
    tokens, tokenizer = (Path(p) if p else None for p in (settings.tokens, settings.tokenizer))
    subject = describe(directory, model.config, provenance, tokens, tokenizer)
    who = {key: (who or provenance).get(key) for key in ("run", "regime", "domain", "seed", "stage", "step")}
    text = model.config.get_text_config()
    n_layers, n_heads = int(text.num_hidden_layers), int(text.num_attention_heads)
    whole = notable(scores, n_layers, n_heads, limit)
    exhibits: list[Exhibit] = []
    for shown, stimulus in (sequences or default_sequences(settings)).items():
        try:
            batch = stimulus.build(subject)
        except NotApplicable:
            continue
        one = Batch(batch.inputs[:1, :LONGEST], batch.targets[:1, :LONGEST])
        small, places, patterns = _maps(model, one, whole, (n_layers, n_heads))
        entry = {
            "key": f"{who['run']}-{len(exhibits)}".replace(".", "-"), **who, "shown": shown,
            "tokens": _labels(directory, one.inputs[0], subject), "whole": [list(w) for w in places],
        }  # fmt: skip
        exhibits.append(Exhibit(entry, small, patterns))
    return exhibits


def default_sequences(settings: Settings) -> dict[str, Stimulus]:
    """What a model of language is shown: the user's own texts first."""
    fixed = {"random tokens twice": repeated_tokens(sequences=2), "natural text": natural(sequences=2)}
    return own_texts(settings.text, TEXTS, LONGEST) | fixed


def whole_limit(sequences: int) -> int:
    """Heads whose pattern is whole where so many sequences are shown in all."""
    return max(FEWEST, min(WHOLE, WHOLE_CELLS // (max(1, sequences) * LONGEST**2)))


def notable(scores: pd.DataFrame, n_layers: int, n_heads: int, limit: int = WHOLE) -> list[tuple[int, int]]:
    """At most `limit` places (layer, head): all heads if they are no more, else the highest of each probe, then the second of
    each, and so on; sorted. Heads of one score stand at the last of their places: nothing says which of them is above."""
    everything = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    if len(everything) <= limit:
        return everything
    rows = scores[scores["head"].notna() & scores.value.notna()]
    position = rows.groupby("probe", sort=False).value.rank(method="max", ascending=False)
    ordered = rows.assign(position=position).sort_values(["position", "probe"], kind="stable")
    places = dict.fromkeys((int(layer), int(head)) for layer, head in zip(ordered.layer, ordered["head"], strict=True))
    return sorted([*dict.fromkeys([*places, *everything])][:limit])


def thumbnails(maps: np.ndarray, heads: int) -> np.ndarray:
    """[head, query, key] -> [head, side, side]: the largest value of each block, so that a thin line stays. `heads`: of the whole
    model, which decide `side`."""
    length = maps.shape[-1]
    side = min(SIDE, length, max(8, math.isqrt(THUMBNAIL_CELLS // heads)))
    edges = np.arange(side) * length // side
    return np.maximum.reduceat(np.maximum.reduceat(maps, edges, axis=-1), edges, axis=-2)


def _maps(
    model: Any, one: Batch, whole: list[tuple[int, int]], shape: tuple[int, int]
) -> tuple[np.ndarray, list[tuple[int, int]], np.ndarray]:
    """Attention of every head on one sequence: thumbnails [layer, head, side, side] of a model of `shape` (layers, heads), 0 where
    a layer does not attend or has fewer heads; those of `whole` that are there; float16 [one of these, query, key]."""
    small: dict[int, np.ndarray] = {}
    kept: dict[tuple[int, int], np.ndarray] = {}

    def sink(handed: Layer) -> None:
        maps = Attention.of(handed, one).corner(one.length)[0].cpu().numpy().astype(np.float16)
        small[handed.number] = thumbnails(maps, shape[0] * shape[1])
        kept.update({(n, head): maps[head] for n, head in whole if n == handed.number and head < len(maps)})

    with torch.inference_mode(), reading(model, sink) as options:
        backbone(model)(input_ids=torch.from_numpy(one.inputs).to(model.device), use_cache=False, **options)
    places = [place for place in whole if place in kept]
    return in_place(small, shape), places, np.stack([kept[place] for place in places])


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
    from nca_interp.data.complexity.gzip_score import gzip_ratio
    from nca_interp.data.nca.rules import tokens_to_frames
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
