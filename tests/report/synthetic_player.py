"""Player data with planted patterns: head 1.2 looks at what the rule reads, head 2.1 at what followed earlier, by a share that is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nca_interp.codes import attention_bytes, share_bytes, triangle

SIDE, PATCH, STATES, FRAMES = 4, 2, 2, 3
WIDTH = SIDE * SIDE + 2
WORDS = ["<img src=x onerror=alert(1)>", "</script>", "the", " cat", "&amp;", "\n", "sat", "on"]
LAYERS, HEADS = 4, 4
STENCIL, INDUCTION = (1, 2), (2, 1)


def grid_sequence() -> dict[str, Any]:
    """Three frames of 4 x 4 patches of 2 x 2 cells."""
    rng = np.random.default_rng(1)
    frames = [[16, *rng.integers(0, 16, SIDE * SIDE).tolist(), 17] for _ in range(FRAMES)]
    return {
        "kind": "grid", "tokens": [t for frame in frames for t in frame], "name": "a trajectory", "why": "planted", "rows": SIDE, "columns": SIDE,
        "patch": PATCH, "states": STATES, "reach": 1, "frames": FRAMES, "start": 0,
    }  # fmt: skip


def text_sequence(n: int = 40) -> dict[str, Any]:
    """Words that come again and again, some of them markup."""
    ids = np.random.default_rng(2).integers(0, len(WORDS), n).tolist()
    return {"kind": "text", "tokens": ids, "texts": [WORDS[i] for i in ids], "name": "a row", "why": "planted"}


def causes(query: int) -> set[int]:
    """Keys that the rule reads for what comes after a query of the grid."""
    frame, place = divmod(query + 1, WIDTH)
    if frame < 1 or not 1 <= place <= SIDE * SIDE:
        return set()
    row, column = divmod(place - 1, SIDE)
    return {
        (frame - 1) * WIDTH + 1 + (row + r) % SIDE * SIDE + (column + c) % SIDE for r in (-1, 0, 1) for c in (-1, 0, 1)
    }


def followers(ids: list[int], query: int) -> set[int]:
    """Keys that follow an earlier occurrence of the query's token."""
    return {k for k in range(1, query + 1) if ids[k - 1] == ids[query]}


def planted(sequence: dict[str, Any], share: float) -> np.ndarray:
    """[head of all layers, query, key]: uniform, but for the head whose share lies on the right keys, the rest on the first key that is not."""
    ids, grid = sequence["tokens"], sequence["kind"] == "grid"
    n = len(ids)
    maps = np.tile(np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None], (LAYERS * HEADS, 1, 1))
    layer, head = STENCIL if grid else INDUCTION
    for query in range(n):
        keys = causes(query) if grid else followers(ids, query)
        others = [k for k in range(query + 1) if k not in keys]
        if keys:
            row = np.zeros(n)
            row[list(keys)] = (share if others else 1.0) / len(keys)
            if others:
                row[others[0]] = 1.0 - share
            maps[layer * HEADS + head, query] = row
    return maps


def arrays(sequence: dict[str, Any], shares: list[float]) -> dict[str, np.ndarray]:
    """Arrays of a run, a checkpoint for each share; the truth has probability 0.25, its token is the second likeliest."""
    ids, steps = np.array(sequence["tokens"]), len(shares)
    n, side = len(ids), SIDE * PATCH
    top = np.stack([(ids[1:] + 1) % len(WORDS), ids[1:], (ids[1:] + 2) % len(WORDS)], -1)
    grid = sequence["kind"] == "grid"
    cells = np.zeros((steps, FRAMES, side, side) if grid else (steps, 0, 0, 0), np.uint8)
    return {
        "attention": np.stack([attention_bytes(triangle(planted(sequence, s))) for s in shares]),
        "truth": share_bytes(np.full((steps, n - 1), 0.25)), "top": np.tile(top.astype(np.int32), (steps, 1, 1)),
        "sure": share_bytes(np.tile([0.5, 0.25, 0.125], (steps, n - 1, 1))), "cells": cells, "cells_sure": np.full_like(cells, 255),
    }  # fmt: skip


def entry(
    key: str, run: str, regime: str, stage: str, parent: str | None, sequence: dict[str, Any], steps: dict[int, int]
) -> dict[str, Any]:
    """What player.json says of a run; `steps`: tokens by step."""
    return {
        "key": key, "run": run, "regime": regime, "label": regime, "domain": "web" if stage == "pt" else "", "seed": 0, "stage": stage,
        "parent": parent, "steps": list(steps), "tokens": list(steps.values()), "sequence": sequence, "shape": [LAYERS, HEADS],
        "heads": [[a, b] for a in range(LAYERS) for b in range(HEADS)], "words": {str(i): w for i, w in enumerate(WORDS)} if stage != "ppt" else {},
        "no_effects": "", "note": "",
    }  # fmt: skip


SHARES = {"ppt": [0.1, 0.5, 0.95], "pt": [0.2, 0.9]}
STEPS = {"ppt": {0: 0, 256: 256 * 4096, 512: 512 * 4096}, "pt": {0: 0, 1024: 1024 * 4096}}


def write_player(
    tables: Path, runs: list[tuple[str, str, str, str | None]], left_out: tuple[str, ...] = (), steps: int = 9
) -> None:
    """player.json and player.npz of (run, regime, stage, parent), of the last `steps` checkpoints."""
    entries, stored = [], {}
    for number, (run, regime, stage, parent) in enumerate(runs):
        sequence = grid_sequence() if stage == "ppt" else text_sequence()
        shares = SHARES[stage or "pt"][-steps:]
        shown = dict(list(STEPS[stage or "pt"].items())[-steps:])
        entries.append(entry(f"r{number}", run, regime, stage, parent, sequence, shown))
        stored |= {f"r{number}-{name}": a for name, a in arrays(sequence, shares).items()}
    np.savez_compressed(tables / "player.npz", **stored)  # type: ignore[arg-type]
    (tables / "player.json").write_text(json.dumps({"version": 1, "runs": entries, "left_out": list(left_out)}))
