"""How fast control rows are made, and after how many tokens an induction head appears on `repeat`.

`python benchmarks/controls.py [--rows N] [--tokens N] [--repeat N]` prints tokens a second of every control;
`python benchmarks/controls.py --emergence [--seeds N] [--limit TOKENS]` trains small models on `repeat`, constant learning
rate after a short warm-up, one thread, until the project's own induction score passes 0.5, and prints the tokens it took.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from nca_interp.base import stream_seed
from nca_interp.config import ModelConfig
from nca_interp.data.control_rows import control_rows
from nca_interp.data.controls.base import Control
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.specs import CONTROLS

PASSED = 0.5
"""Induction score from which on a head counts as there."""
LOOK = 50
"""Steps between two looks at the score."""


class Setting(NamedTuple):
    """One way to train on `repeat`."""

    n_symbols: int = 64
    period: tuple[int, int] = (8, 64)
    n_ctx: int = 128
    batch: int = 16
    lr: float = 2e-3
    n_layers: int = 3
    d_model: int = 64
    n_heads: int = 4
    init: float = 0.02
    """Standard deviation of every fresh matrix, embeddings included."""
    tied: bool = False

    @property
    def spec(self) -> RepeatSpec:
        """The source."""
        return RepeatSpec(n_symbols=self.n_symbols, period=self.period)

    @property
    def model(self) -> ModelConfig:
        """The network."""
        return ModelConfig(
            n_layers=self.n_layers,
            d_model=self.d_model,
            n_heads=self.n_heads,
            d_mlp=2 * self.d_model,
            n_ctx=self.n_ctx,
            init_std=self.init,
            embed_std=self.init,
            tied=self.tied,
        )


SETTINGS = (
    Setting(),
    Setting(lr=5e-3),
    Setting(period=(4, 16), n_ctx=64, lr=5e-3, n_layers=2, n_heads=2, init=0.1, tied=True),
    Setting(n_layers=2),
    Setting(n_layers=2, lr=5e-3),
    Setting(n_symbols=32, period=(4, 32), n_ctx=64, batch=32, lr=5e-3, n_layers=2),
    Setting(n_symbols=32, period=(4, 32), n_ctx=64, batch=32, lr=1e-2, n_layers=2),
    Setting(n_symbols=16, period=(4, 16), n_ctx=64, batch=32, lr=5e-3, n_layers=2),
)


def batches(spec: Control, n_ctx: int, batch: int, seed: int) -> Iterator[Any]:
    """Batches [batch, n_ctx + 1] of rows that are never seen again."""
    import torch

    for part in range(10_000):
        rows = control_rows(spec, seed, f"part-{part}", 64 * batch, n_ctx + 1, threads=1)
        tokens = torch.from_numpy(np.concatenate([chunk.tokens for chunk in rows]).astype(np.int64))
        yield from tokens.split(batch)


def trained(spec: Control, shape: ModelConfig, batch: int, lr: float, seed: int, warmup: int = 50) -> Iterator[Any]:
    """A model in training on new rows of `spec`: yields (steps, model) before the first step and after every one."""
    import torch

    from nca_interp.model.llama import build

    model = build(shape, spec.vocab_size, stream_seed(seed, "controls"), "ppt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    yield 0, model
    for step, rows in enumerate(batches(spec, shape.n_ctx, batch, seed), start=1):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / warmup)
        logits = model(input_ids=rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield step, model


def induction(model: Any) -> float:
    """The largest induction score of a head (probes/induction.py)."""
    import nca_interp

    return float(nca_interp.analyze(model, probes=["induction"]).value.max())


def emergence(setting: Setting, seed: int, limit: int) -> tuple[int | None, float]:
    """Tokens until the induction score passes PASSED (null: not within `limit`), and processor seconds of it."""
    began, a_step = time.process_time(), setting.batch * setting.n_ctx
    for step, model in trained(setting.spec, setting.model, setting.batch, setting.lr, seed):
        if step and step % LOOK == 0 and induction(model) >= PASSED:
            return step * a_step, time.process_time() - began
        if step * a_step >= limit:
            break
    return None, time.process_time() - began


def print_emergence(seeds: int, limit: int, chosen: list[int]) -> None:
    """A line a setting."""
    import torch

    torch.set_num_threads(1)
    print(
        "| symbols | period | row | a step | lr | model | tokens until 0.5, by seed | processor s |\n|---|---|---|---|---|---|---|---|"
    )
    for number, s in enumerate(SETTINGS):
        if chosen and number not in chosen:
            continue
        found = [emergence(s, seed, limit) for seed in range(seeds)]
        tokens = ", ".join("not within the limit" if n is None else f"{n / 1e6:.2f}M" for n, _ in found)
        seconds = ", ".join(f"{t:.0f}" for _, t in found)
        print(
            f"| {s.n_symbols} | {s.period[0]}-{s.period[1]} | {s.n_ctx} | {s.batch} rows | {s.lr:g} | {s.n_layers} layers, d_model {s.d_model}, std {s.init:g}{', tied' if s.tied else ''} "
            f"| {tokens} | {seconds} |",
            flush=True,
        )


def print_speed(rows: int, tokens: int, repeat: int) -> None:
    """A line a control: median of `repeat` runs on one thread, in seconds of the processor, after one that compiles."""
    print("| control | tokens a second of one core |\n|---|---|")
    for kind, control in CONTROLS.items():
        spec, times = control.model_validate({}), []
        for attempt in range(repeat + 1):
            began = time.process_time()
            for _ in control_rows(spec, attempt, "bench", rows, tokens, threads=1):
                pass
            times.append(time.process_time() - began)
        print(f"| {kind} | {rows * tokens / np.median(times[1:]) / 1e6:.1f}M |", flush=True)


def main() -> None:
    """Print one of the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--tokens", type=int, default=129)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--emergence", action="store_true")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=4_000_000)
    parser.add_argument("--only", type=int, nargs="*", default=[], help="numbers of the settings, from 0")
    given = parser.parse_args()
    if given.emergence:
        print_emergence(given.seeds, given.limit, given.only)
    else:
        print_speed(given.rows, given.tokens, given.repeat)


if __name__ == "__main__":
    main()
