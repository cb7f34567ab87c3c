"""Which heads a small model grows on each control, what it loses without them, and which probes see them.

`python -m benchmarks.controls_grown reverse recall:n_keys=16,n_values=16,pairs=[2,8] [--tokens N] [--lr LR] [--seed N]` trains a
model for each source (settings of `SHAPE`; constant learning rate, one thread, no row twice) and prints one line, on rows that it
never saw: the loss above the ideal predictor of the targets that the row decides (all targets where it decides none), the head that
attends most to each of four kinds of keys, with its mass (that of uniform attention) and what is lost without it and without all heads
that do about as much, and the head without which most is lost.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

import nca_interp
from benchmarks.controls import trained
from nca_interp.config import ModelConfig
from nca_interp.data.control_rows import control_rows, ideal_losses
from nca_interp.data.controls.base import Control
from nca_interp.data.sources import parse_source

SHAPE = {"n_layers": 3, "d_model": 64, "n_heads": 4, "d_mlp": 192, "n_ctx": 128}
BATCH, ROWS, RANDOM = 16, 64, 5
"""Rows a step, new rows that are measured, random models that say what a score is worth."""
KEYS = ("holds the target", "holds the query's token", "after the query's token", "previous token")
"""What a head may look for: earlier keys of the same list that hold the token that comes, that hold the token that is there, the
tokens after those, and the key before the query."""
PROBES = (
    "induction", "induction_repeat_2", "induction_repeat_3", "induction_repeat_4", "previous_token", "duplicate_token", "copying",
    "dyck_opener", "dyck_match",
)  # fmt: skip
"""Those that docs/controls.md names and that say when a head is of their kind."""
Site = tuple[int, int]


class Rows(NamedTuple):
    """New rows of a source, and what is asked of them."""

    tokens: torch.Tensor
    """[row, position]."""
    ideal: torch.Tensor
    """[row, target] nats of the best predictor that reads the row."""
    counts: torch.Tensor
    """[row, target] whether the row decides it and it is no mark between lists; all where that is never so."""
    keys: dict[str, torch.Tensor]
    """KEYS, each [row, query, key]."""


def new_rows(spec: Control, n_tokens: int, seed: int) -> Rows:
    """ROWS rows that no training sees."""
    chunks = list(control_rows(spec, seed, "grown", ROWS, n_tokens, threads=1))
    drawn = np.concatenate([c.tokens for c in chunks]).astype(np.int64)
    tokens, names = torch.from_numpy(drawn), spec.names()
    knows = torch.from_numpy(np.concatenate([c.nats for c in chunks]))[:, 1:]  # what the row hides, too
    ideal = torch.from_numpy(ideal_losses(spec, drawn, seed, "grown")["bayes"])[:, 1:]
    marks = torch.tensor([names.index(name) for name in ("|", ";", "pop") if name in names], dtype=torch.int64)
    decided = (knows < 1e-9) & ~torch.isin(tokens[:, 1:], marks)
    return Rows(tokens, ideal, decided if decided.any() else torch.ones_like(decided), key_sets(tokens, names))


def key_sets(tokens: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """KEYS of tokens [row, position], for the queries before the last."""
    query, target = tokens[:, :-1], tokens[:, 1:]
    places = torch.arange(query.shape[1])
    back = places[:, None] - places[None, :]  # [query, key]
    same = torch.ones(len(tokens), *back.shape, dtype=torch.bool)
    if ";" in names:
        ends = (query == names.index(";")).cumsum(1)
        same = ends[:, :, None] == ends[:, None, :]
    token = query[:, :, None] == query[:, None, :]
    after = torch.zeros_like(token)
    after[:, :, 1:] = (token & same & (back >= 1))[:, :, :-1]
    found = (same & (target[:, :, None] == query[:, None, :]) & (back >= 0), same & token & (back >= 1), after & same)
    return dict(zip(KEYS, (*found, same & (back == 1)), strict=True))


@contextmanager
def without(model: Any, sites: Iterable[Site]) -> Iterator[None]:
    """The model with the output of some heads replaced by its mean over the pass."""
    width = model.config.hidden_size // model.config.num_attention_heads

    def edit(head: int) -> Any:
        part = slice(head * width, (head + 1) * width)

        def mean(_: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            z = args[0].clone()
            z[..., part] = z[..., part].mean((0, 1))
            return (z, *args[1:])

        return mean

    handles = [model.model.layers[n].self_attn.o_proj.register_forward_pre_hook(edit(head)) for n, head in sites]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def above_ideal(model: Any, rows: Rows) -> float:
    """Nats a target that counts, less those of the ideal predictor."""
    logits = model(input_ids=rows.tokens[:, :-1]).logits
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), rows.tokens[:, 1:], reduction="none")
    return float((nll - rows.ideal)[rows.counts].mean())


class Looks(NamedTuple):
    """Heads that attend to some keys."""

    best: Site
    mass: float
    uniform: float
    """What uniform attention would give."""
    alike: list[Site]
    """Heads with at least half of the best one's mass, and twice that of uniform attention; the best one always."""

    def cell(self, model: Any, rows: Rows, intact: float) -> str:
        """Best head, its mass, and what is lost without it, and without all that are alike."""
        text = f"{self.best[0]}.{self.best[1]}: {self.mass:.2f} ({self.uniform:.2f}), {lost(model, rows, [self.best], intact):+.2f}"
        return text + (
            f"; all {len(self.alike)}: {lost(model, rows, self.alike, intact):+.2f}" if len(self.alike) > 1 else ""
        )


@torch.inference_mode()
def looks(model: Any, rows: Rows) -> dict[str, Looks]:
    """For each of KEYS the heads that attend most to it, at the queries of targets that count and have such a key."""
    model.set_attn_implementation("eager")
    maps = model(input_ids=rows.tokens[:, :-1], output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    found = {}
    for name, keys in rows.keys.items():
        own = rows.counts & keys.any(-1)
        if not own.any():
            continue
        mass = torch.stack(
            [(m * keys[:, None]).sum(-1).transpose(0, 1)[:, own].mean(-1) for m in maps]
        )  # [layer, head]
        uniform = float((keys.sum(-1) / torch.arange(1, keys.shape[1] + 1))[own].mean())
        ranked = sorted(np.ndindex(*mass.shape), key=lambda site: -float(mass[site]))
        least = max(float(mass.max()) / 2, 2 * uniform)
        found[name] = Looks(
            ranked[0], float(mass.max()), uniform, [ranked[0], *(s for s in ranked[1:] if mass[s] >= least)]
        )
    return found


def lost(model: Any, rows: Rows, sites: Iterable[Site], intact: float) -> float:
    """What the model loses without some heads, nats a target that counts."""
    with without(model, sites):
        return above_ideal(model, rows) - intact


def hits(model: Any) -> str:
    """Of PROBES those of which a head is a hit, with the best head and its score."""
    frame = nca_interp.analyze(model, probes=PROBES, random=RANDOM)
    told = []
    for name, rows in frame[frame["hit"] == 1].groupby("probe"):
        best = rows.loc[rows.value.idxmax()]
        told.append((float(best.value), f"{name} {int(best.layer)}.{int(best['head'])} {best.value:.2f}"))
    return ", ".join(text for _, text in sorted(told, reverse=True)) or "none"


def line(source: str, tokens: int, lr: float, seed: int) -> str:
    """The row of the table of one source."""
    spec: Any = parse_source(source, [])
    shape = ModelConfig(**SHAPE, init_std=0.02, embed_std=0.02)
    rows, steps = new_rows(spec, shape.n_ctx + 1, seed), tokens // (BATCH * shape.n_ctx)
    for step, model in trained(spec, shape, BATCH, lr, seed):
        if step == 0:
            before = above_ideal(model, rows)
        if step == steps:
            break
    model.eval()
    after, seen = above_ideal(model, rows), looks(model, rows)
    alone = {site: lost(model, rows, [site], after) for site in np.ndindex(shape.n_layers, shape.n_heads)}
    most = max(alone, key=alone.__getitem__)
    others = [value for site, value in alone.items() if not any(site in (most, *one.alike) for one in seen.values())]
    cells = [seen[name].cell(model, rows, after) if name in seen else "" for name in KEYS]
    return (
        f"| `{source}` | {steps * BATCH * shape.n_ctx / 1e6:.1f}M | {before:.2f}, {after:.2f} | {' | '.join(cells)} "
        f"| {most[0]}.{most[1]}: {alone[most]:+.2f} | {float(np.median(others)):+.2f} | {hits(model)} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--tokens", type=float, default=2.4e6)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"| source | tokens | nats above ideal, before and after | {' | '.join(KEYS)} | most lost without | median of the others | hits |"
    )
    print("|---" * (len(KEYS) + 6) + "|")
    for source in given.sources:
        print(line(source, int(given.tokens), given.lr, given.seed), flush=True)


if __name__ == "__main__":
    main()
