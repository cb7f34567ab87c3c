"""Collections of models from elsewhere for tests of the report: every table has planted answers, no model is trained."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.report.columns import columns_of

PROBES = {
    # unit, chance, threshold (None: names no kind of head)
    "induction": ("attention mass", 0.02, 0.3),
    "previous_token": ("attention mass", 0.03, 0.3),
    "sink": ("share of sequences", 0.0, 0.5),
    "entropy": ("share of ln(q + 1)", 1.0, None),
}
NULL_95 = 0.04
TIED = 69
"""Heads of a large model whose sink score is exactly 1."""
PLANTED = (5, 3)
"""Layer and head with the highest induction score."""
GAIN = {"repeated_token_gain": 2.5}
KINDS = {"self_attn.q_proj": "attn", "mlp.up_proj": "mlp", "input_layernorm": "norm"}


@dataclass(frozen=True)
class Model:
    """A run of a collection."""

    name: str
    layers: int = 30
    heads: int = 9
    steps: tuple[int, ...] = (0,)
    tokens_a_step: int | None = None
    shift: float = 0.0
    """Added to the induction score of one head, (7, 1)."""


def write_collection(
    folder: Path, *models: Model, compared: bool = True, causes: bool = False, label: str = ""
) -> Path:
    """Write collection.json and the tables; `label` stands for that of the first model."""
    tables = folder / "tables"
    tables.mkdir(parents=True)
    names = {m.name: label if label and m is models[0] else m.name for m in models}
    entries = [
        {"path": f"models/{m.name}/{s}", "run": m.name, "label": names[m.name], "regime": "", "role": "regime", "domain": "", "stage": "",
         "seed": None, "step": s, "tokens": None if m.tokens_a_step is None else s * m.tokens_a_step}
        for m in models for s in m.steps
    ]  # fmt: skip
    settings = {"tokens": None, "tokenizer": None, "text": ["own.txt"], "device": "cpu", "dtype": "float32", "random": None, "fast": False}  # fmt: skip
    saved = {"collection": {"title": " and ".join(names.values()), "entries": entries, "settings": settings}, "provenance": {"created": "2026-11-29T00:00:00Z", "command": "nca-interp analyze --checkpoint models"}}  # fmt: skip
    (folder / "collection.json").write_text(json.dumps(saved))
    frames: dict[str, list[dict[str, Any]]] = {"runs": [_run(m, names[m.name]) for m in models], "metrics": []}
    frames["probes"] = [row for m in models for row in _probes(m, names[m.name])]
    frames["hits"] = _hits(frames["probes"])
    frames["emergence"] = [row for m in models if len(m.steps) > 1 for row in _emergence(m, names[m.name])]
    if compared:
        frames |= _compared(models, names)
    if causes:
        frames |= _causes(models[0], names[models[0].name])
    for name, rows in frames.items():
        frame = pd.DataFrame(rows)
        if name in COLUMNS:
            frame = frame.reindex(columns=COLUMNS[name].split())
        spec = [c.partition(":")[0] for c in columns_of().get(name, "").split()]
        frame = frame.reindex(columns=[*frame.columns, *(c for c in spec if c not in frame.columns)])
        frame.to_csv(tables / f"{name}.csv", index=False)
    docs = [
        {"name": n, "doc": f"Definition of {n}.", "unit": u, "low": 0.0, "high": 1.0} for n, (u, _, _) in PROBES.items()
    ]
    (tables / "probes.json").write_text(json.dumps(docs))
    _patterns(tables, models[:2], names)
    return folder


COLUMNS = {
    "metrics": "run regime domain seed stage step tokens loss val_loss val_bpb grad_norm lr tokens_per_second",
    "emergence": "run regime domain seed stage probe level state after_step by_step after_tokens by_tokens first last highest "
    "checkpoints spacing resolution bend bend_low bend_high distance_low distance_high order",
    "similarity": "comparison domain regime_a regime_b seed_a seed_b run_a run_b step_a tokens layer_a layer_b value n",
    "apart": "run other tensor kind layer distance cosine",
}


def _who(m: Model, label: str) -> dict[str, Any]:
    return {"run": m.name, "regime": label, "domain": "", "seed": None, "stage": ""}


def _at(m: Model, label: str, step: int) -> dict[str, Any]:
    return {**_who(m, label), "step": step, "tokens": None if m.tokens_a_step is None else step * m.tokens_a_step}


def _run(m: Model, label: str) -> dict[str, Any]:
    return {
        **_who(m, label), "label": label, "role": "regime", "state": "done", "steps": m.steps[-1], "tokens": None, "ppt_tokens": None,
        "params": 134_515_008, "vocab_size": 49152, "source": f"models/{m.name}", "description": f"LlamaForCausalLM, {m.layers} layers x {m.heads} heads",
        "flops": None, "tokens_per_second": None, "spikes": None, "nonfinite": None, "skipped": None, "precision": "float32", "checkpoint_sha256": "ab" * 32,
    }  # fmt: skip


def _probes(m: Model, label: str) -> list[dict[str, Any]]:
    rows = []
    for number, step in enumerate(m.steps):
        grown = (number + 1) / len(m.steps)
        for probe, (unit, chance, threshold) in PROBES.items():
            values = _scores(m, probe, chance, grown)
            for layer, head in product(range(m.layers), range(m.heads)):
                value = float(values[layer, head])
                known = (
                    {"null_95": NULL_95, "hit": int(value > threshold)}
                    if threshold is not None
                    else {"null_95": NULL_95, "hit": None}
                )
                rows.append({**_at(m, label, step), "probe": probe, "layer": layer, "head": head, "value": value, "chance": chance, "sd": 0.01, "unit": unit, "n": 16, **known})  # fmt: skip
        for probe, value in GAIN.items():
            rows.append({**_at(m, label, step), "probe": probe, "layer": None, "head": None, "value": value * grown + m.shift, "chance": 0.0, "sd": 0.2, "unit": "nats per token", "n": 16, "null_95": 0.1, "hit": None})  # fmt: skip
    return rows


def _scores(m: Model, probe: str, chance: float, grown: float) -> np.ndarray:
    values = chance + 0.01 * np.random.default_rng(len(probe)).random((m.layers, m.heads))
    if probe == "sink":
        values[:] = 0.25
        values.flat[:TIED] = 1.0
    if probe == "induction":
        values[PLANTED] = 0.9 * grown
        values[7, 1] = 0.1 + m.shift
    if probe == "previous_token":
        values[2, 4] = 0.8 * grown
    return np.minimum(values, 1.0)


def _hits(probes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    frame = pd.DataFrame(probes)
    frame = frame[frame.hit.notna()]
    keys = ["run", "regime", "domain", "stage", "step", "probe"]
    rows = frame.groupby(keys, sort=False).agg(heads=("hit", "size"), hits=("hit", "sum"), best=("value", "max"), tokens=("tokens", "first")).reset_index()  # fmt: skip
    rows["threshold"] = rows.probe.map({p: t for p, (_, _, t) in PROBES.items()})
    rows = rows.assign(seed=None, models=2, null_95=NULL_95, top_mean=rows.best, hits_fdr=rows.hits, fdr_least=1)
    return [{str(k): v for k, v in row.items()} for row in rows.to_dict("records")]


def _emergence(m: Model, label: str) -> list[dict[str, Any]]:
    """Induction between the first two checkpoints at which it grows beyond the level, the sink from the start."""
    tokens = [None if m.tokens_a_step is None else s * m.tokens_a_step for s in m.steps]
    place = next(i for i in range(len(m.steps)) if 0.9 * (i + 1) / len(m.steps) > 0.3)
    common = {**_who(m, label), "checkpoints": len(m.steps), "spacing": 2.0, "resolution": None}
    return [
        {**common, "probe": "induction", "level": 0.3, "state": "reached", "after_step": m.steps[place - 1], "by_step": m.steps[place],
         "after_tokens": tokens[place - 1], "by_tokens": tokens[place], "first": 0.1, "last": 0.9, "highest": 0.9},
        {**common, "probe": "sink", "level": 0.5, "state": "from start", "by_step": m.steps[0], "by_tokens": tokens[0], "first": 1.0, "last": 1.0, "highest": 1.0},
        {**common, "probe": "previous_token", "level": 0.9, "state": "never", "after_step": m.steps[-1], "after_tokens": tokens[-1], "first": 0.1, "last": 0.8, "highest": 0.8},
    ]  # fmt: skip


def _compared(models: tuple[Model, ...], names: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {
        n: [] for n in ("similarity", "streams", "weights", "head_norms", "apart")
    }
    for number, m in enumerate(models):
        label = names[m.name]
        for index, step in enumerate(m.steps):
            at = _at(m, label, step)
            for layer, (tensor, kind) in product(range(m.layers), KINDS.items()):
                moved = 0.0 if index == 0 else 0.1 * index
                rank = None if kind == "norm" else 300.0 + layer
                found["weights"].append({**at, "tensor": f"model.layers.{layer}.{tensor}.weight", "kind": kind, "layer": layer, "norm": 10.0 + layer, "displacement": moved, "effective_rank": rank, "participation": rank})  # fmt: skip
            for layer in range(m.layers + 1):
                found["streams"].append(
                    {**at, "layer": layer, "effective_rank": 100.0 + layer, "participation": 50.0, "n": 512}
                )
                if step != m.steps[-1]:
                    found["similarity"].append({"comparison": "time", "domain": "", "regime_a": label, "regime_b": label, "seed_a": None, "seed_b": None, "run_a": m.name, "run_b": m.name, "step_a": step, "tokens": at["tokens"], "layer_a": layer, "layer_b": layer, "value": 0.8, "n": 512})  # fmt: skip
            for layer, head in product(range(m.layers), range(m.heads)):
                found["head_norms"].append({**at, "layer": layer, "head": head, "ov_norm": 2.0 + (layer, head).__eq__(PLANTED), "qk_norm": 1.0 + layer})  # fmt: skip
        for other in models[:number]:
            pair = {"comparison": "regimes", "domain": "", "regime_a": label, "regime_b": names[other.name], "seed_a": None, "seed_b": None, "run_a": m.name, "run_b": other.name, "step_a": m.steps[-1], "tokens": None}  # fmt: skip
            found["similarity"] += [{**pair, "layer_a": a, "layer_b": b, "value": 1.0 - 0.02 * abs(a - b), "n": 512} for a in range(m.layers + 1) for b in range(other.layers + 1)]  # fmt: skip
            found["apart"] += [
                {"run": m.name, "other": other.name, "tensor": f"model.layers.{layer}.{tensor}.weight", "kind": kind, "layer": layer, "distance": 0.01 * (layer + 1), "cosine": 0.99}
                for layer in range(m.layers) for tensor, kind in KINDS.items()
            ]  # fmt: skip
    return found


def _causes(m: Model, label: str) -> dict[str, list[dict[str, Any]]]:
    """Losing the planted head costs 1.25 nats; one path leads to it; its set bears load."""
    at = {**_at(m, label, m.steps[-1]), "chance": None, "sd": 0.1, "unit": "nats per token", "n": 16, "metric": "repeated_token_loss", "by": None, "site": "head", "how": "mean", "full": 3.0, "worse": 1, "p": None, "at": None}  # fmt: skip
    rows = [
        {**at, "probe": "ablation", "layer": layer, "head": head, "value": 1.25 if (layer, head) == PLANTED else 0.001, "rank": 1 if (layer, head) == PLANTED else 2}
        for layer, head in product(range(m.layers), range(m.heads))
    ]  # fmt: skip
    edge = {
        **at,
        "probe": "edge",
        "layer": PLANTED[0],
        "head": PLANTED[1],
        "from_layer": 2,
        "from_head": 4,
        "value": 0.75,
    }
    rows += [edge, {**edge, "probe": "k_composition", "value": 0.2, "chance": 0.05}]
    judged = {"domain": "", "stage": "", "regime": label, "probe": "induction", "metric": "repeated_token_loss", "effect": 1.5, "random": 0.02, "random_low": 0.0, "random_high": 0.04, "excess": 1.48, "low": None, "high": None, "p": 0.02, "p_bh": 0.04, "seeds": 1, "sets": 50, "at": "", "margin": 0.01, "unit": "nats per token", "verdict": "load-bearing"}  # fmt: skip
    return {"causes": rows, "top_sets": [judged]}


def _patterns(tables: Path, models: tuple[Model, ...], names: dict[str, str]) -> None:
    """Two sequences of each model, the user's own text first; the planted head and its neighbours whole."""
    arrays, entries = {}, []
    for m in models:
        for number, (shown, size) in enumerate((("your text own.txt", 24), ("random tokens twice", 96))):
            key, side = f"{m.name}-{number}", 14
            rng = np.random.default_rng(number)
            pattern = np.tril(rng.random((size, size)))
            pattern /= pattern.sum(1, keepdims=True)
            whole = [[PLANTED[0], h] for h in range(m.heads)] + [[2, 4]]
            arrays[f"{key}-thumbnails"] = np.tril(rng.random((m.layers, m.heads, side, side))).astype(np.float16)
            arrays[f"{key}-whole"] = np.stack([pattern] * len(whole)).astype(np.float16)
            tokens = [f" w{i}" for i in range(size)] if number == 0 else [str(100 + i) for i in range(size)]
            entries.append({"key": key, **_at(m, names[m.name], m.steps[-1]), "shown": shown, "tokens": tokens, "whole": whole})  # fmt: skip
    np.savez_compressed(tables / "patterns.npz", **arrays)
    (tables / "patterns.json").write_text(json.dumps(entries))
