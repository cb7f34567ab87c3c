"""Which heads a small model grows on each control, what every probe says of it, and what it loses without its best head.

`python -m benchmarks.controls_grown reverse sort [--tokens N] [--lr LR] [--seed N]` trains a model for each source (settings of
`SHAPE`; constant learning rate, one thread, no row twice) and prints one line: the loss of targets that the row decides (the generator
gave them probability 1, separators left out), the head that attends most to what decides them, and the loss without it.
"""

from __future__ import annotations

import argparse
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

import nca_interp
from benchmarks.controls import trained
from nca_interp.config import ModelConfig
from nca_interp.data.control_rows import control_rows
from nca_interp.data.controls.base import Control
from nca_interp.data.sources import parse_source

SHAPE = {"n_layers": 3, "d_model": 64, "n_heads": 4, "d_mlp": 192, "n_ctx": 128}
BATCH, ROWS = 16, 64
"""Rows a step, and new rows that are measured."""


class Rows(NamedTuple):
    """New rows of a source, and what is asked of them."""

    tokens: torch.Tensor
    """[row, position]."""
    decided: torch.Tensor
    """[row, target] whether the row before it decides it, and it is no separator."""
    sources: torch.Tensor
    """[row, query, key] earlier keys of the same list that hold the target's token, for decided targets."""


def new_rows(spec: Control, n_tokens: int, seed: int) -> Rows:
    """ROWS rows that no training sees."""
    chunks = list(control_rows(spec, seed, "grown", ROWS, n_tokens, threads=1))
    tokens = torch.from_numpy(np.concatenate([c.tokens for c in chunks]).astype(np.int64))
    nats = torch.from_numpy(np.concatenate([c.nats for c in chunks]))
    names = spec.names()
    marks = torch.tensor([names.index(name) for name in ("|", ";", "pop") if name in names])
    target = tokens[:, 1:]
    decided = (nats[:, 1:] < 1e-9) & ~torch.isin(target, marks)
    ends = (tokens == names.index(";")).cumsum(1)  # number of the list
    same = ends[:, :-1, None] == ends[:, None, :-1]
    equal = target[:, :, None] == tokens[:, None, :-1]
    past = torch.ones(n_tokens - 1, n_tokens - 1, dtype=torch.bool).tril()
    return Rows(tokens, decided, same & equal & past & decided[:, :, None])


@contextmanager
def without(model: Any, layer: int, head: int) -> Any:
    """The model with one head's output replaced by its mean over the pass."""
    width = model.config.hidden_size // model.config.num_attention_heads
    part = slice(head * width, (head + 1) * width)

    def edit(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        z = args[0].clone()
        z[..., part] = z[..., part].mean((0, 1))
        return (z, *args[1:])

    handle = model.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(edit)
    try:
        yield
    finally:
        handle.remove()


@torch.inference_mode()
def loss(model: Any, rows: Rows) -> float:
    """Nats of a decided target."""
    logits = model(input_ids=rows.tokens[:, :-1]).logits
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows.tokens[:, 1:], reduction="none")
    return float(nll[rows.decided].mean())


@torch.inference_mode()
def attends(model: Any, rows: Rows) -> tuple[torch.Tensor, float]:
    """Mean mass on the sources of decided targets that have one [layer, head], and that of uniform attention."""
    own = rows.decided & rows.sources.any(-1)
    model.set_attn_implementation("eager")
    maps = model(input_ids=rows.tokens[:, :-1], output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    found = []
    for m in maps:
        each = (m * rows.sources[:, None]).sum(-1)  # [row, head, query]
        found.append(torch.stack([each[:, h][own].mean() for h in range(m.shape[1])]))
    uniform = rows.sources.sum(-1) / torch.arange(1, rows.sources.shape[1] + 1)
    return torch.stack(found), float(uniform[own].mean())


def hits(model: Any) -> str:
    """Probes whose best head is above their threshold, with layer.head and score."""
    frame = nca_interp.analyze(model)
    frame = frame[frame["head"].notna()]
    told = []
    from nca_interp.discover import load

    for name, one in load("probes", None, lambda problem: None).items():
        rows = frame[frame.probe == name]
        if one.value.hit is None or rows.empty:
            continue
        best = rows.loc[rows.value.idxmax()]
        if best.value > one.value.hit:
            told.append((float(best.value), f"{name} {int(best.layer)}.{int(best['head'])} {best.value:.2f}"))
    return ", ".join(text for _, text in sorted(told, reverse=True)) or "none"


def line(source: str, tokens: int, lr: float, seed: int) -> str:
    """The row of the table of one source."""
    spec: Any = parse_source(source, [])
    shape = ModelConfig(**SHAPE, init_std=0.02, embed_std=0.02)
    rows, steps = new_rows(spec, shape.n_ctx + 1, seed), tokens // (BATCH * shape.n_ctx)
    for step, model in trained(spec, shape, BATCH, lr, seed):
        if step == 0:
            before = loss(model, rows)
        if step == steps:
            break
    model.eval()
    after, (mass, chance) = loss(model, rows), attends(model, rows)
    layer, head = divmod(int(mass.argmax()), shape.n_heads)
    lost = {}
    for n in range(shape.n_layers):
        for h in range(shape.n_heads):
            with without(model, n, h):
                lost[n, h] = loss(model, rows) - after
    most = max(lost, key=lambda site: lost[site])
    others = [value for site, value in lost.items() if site not in (most, (layer, head))]
    return (
        f"| `{source}` | {steps * BATCH * shape.n_ctx / 1e6:.1f}M | {before:.2f} to {after:.2f} | {layer}.{head}: {mass.max():.2f} ({chance:.2f}) "
        f"| {lost[layer, head]:+.2f} | {most[0]}.{most[1]}: {lost[most]:+.2f} | {float(np.median(others)):+.2f} | {hits(model)} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--tokens", type=float, default=1.6e6)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| source | tokens | loss of decided targets | head on their source (uniform) | without it | most lost without | median of the others | probes with a hit |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for source in given.sources:
        print(line(source, int(given.tokens), given.lr, given.seed), flush=True)


if __name__ == "__main__":
    main()
