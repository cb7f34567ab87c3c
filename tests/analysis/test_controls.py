"""The positive controls are positive: tiny models grow what a control is for, and the project's instruments find it.

What is known of the tokens that this takes: docs/controls.md.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import nca_interp
from nca_interp.analysis.causes.ablation import ablate_sets
from nca_interp.analysis.causes.effects import repeated_task
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.stimuli.base import Subject
from nca_interp.base import stream_seed
from nca_interp.config import ModelConfig
from nca_interp.data.control_rows import control_rows, ideal_losses
from nca_interp.data.controls.base import Control
from nca_interp.data.controls.markov import MarkovSpec
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.model.llama import build

SEED = 0


def training(spec: Control, shape: ModelConfig, batch: int, lr: float, steps: int):
    """A model after every step on new rows, constant learning rate after 30 steps: yields (step, model)."""
    model = build(shape, spec.vocab_size, stream_seed(SEED, "controls"), "ppt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.01)
    chunks = control_rows(spec, SEED, "train", steps * batch, shape.n_ctx + 1, threads=1)
    rows = itertools.chain.from_iterable(chunk.tokens.astype(np.int64) for chunk in chunks)
    for step in range(1, steps + 1):
        tokens = torch.from_numpy(np.stack(list(itertools.islice(rows, batch))))
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1.0, step / 30)
        loss = losses(model, tokens).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield step, model


def losses(model, tokens: torch.Tensor) -> torch.Tensor:
    """Nats [row, target]."""
    logits = model(input_ids=tokens[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")


def test_repeat_grows_an_induction_head_whose_ablation_takes_the_gain_away():
    """Until a head's induction score passes 0.5; then without the heads that score above 0.3 the repeated-token gain is gone,
    and without as many other heads of their layers it is not."""
    shape = ModelConfig(n_layers=3, d_model=64, n_heads=4, d_mlp=192, n_ctx=128)
    for step, model in training(RepeatSpec(), shape, batch=16, lr=2e-3, steps=1800):
        if step % 100 == 0:
            scores = nca_interp.analyze(model, probes=["induction"]).set_index(["layer", "head"]).value
            if scores.max() > 0.5:
                break
    assert scores.max() > 0.5
    found = frozenset((int(layer), int(head)) for (layer, head), score in scores.items() if score > 0.3)
    others = frozenset((layer, head) for layer, head in scores.index if layer == max(n for n, _ in found)) - found
    trunk, task = Trunk(model), repeated_task(Subject("repeat", 64, shape.n_ctx))
    change = ablate_sets(trunk, task, [frozenset(), found, others])
    gain = nca_interp.analyze(model, probes=["repeated_token_gain"]).value.mean()
    assert gain > 1.0
    lost = {heads: -float(metrics["repeated_token_gain"].mean()) for heads, metrics in change.items()}
    assert lost[frozenset()] == pytest.approx(0, abs=1e-5)
    assert lost[found] > 0.8 * gain
    assert not others or lost[others] < 0.5 * lost[found]


def test_markov_rows_are_predicted_as_well_as_by_bayes():
    """Within 0.06 nats of the Bayes predictor, and better than counting tokens, on rows never seen."""
    spec = MarkovSpec(n_states=3, alpha=0.3)
    shape = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=64, n_ctx=64, init_std=0.1, embed_std=0.3)
    rows = np.concatenate([c.tokens for c in control_rows(spec, SEED, "val", 300, shape.n_ctx + 1)]).astype(np.int64)
    ideal = {name: nats[:, 1:].mean() for name, nats in ideal_losses(spec, rows, SEED, "val").items()}
    for step, model in training(spec, shape, batch=16, lr=5e-3, steps=2000):
        if step % 100 == 0:
            with torch.inference_mode():
                reached = float(losses(model, torch.from_numpy(rows)).mean())
            if reached < ideal["bayes"] + 0.06:
                break
    assert ideal["bayes"] - 0.01 < reached < ideal["bayes"] + 0.06
    assert reached < ideal["unigram"] - 0.15
