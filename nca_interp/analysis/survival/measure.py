"""Every head of a run at each checkpoint: norms of its weights, the parts of an induction circuit, and what losing it costs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats

from nca_interp.analysis.causes.ablation import ablate
from nca_interp.analysis.causes.effects import Task, repeated_task
from nca_interp.analysis.causes.options import EXACT_UP_TO
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.collection.series import Series
from nca_interp.analysis.stimuli.base import NotApplicable, Subject, repeated_tokens
from nca_interp.analysis.survival.components import Circuit, circuit

PERIOD, SEQUENCES = 24, 8
"""Of the repeated random tokens."""
METRIC = "repeated_token_loss"
"""What losing a head costs: nats a token of random tokens that come again (docs/causes.md)."""
CANDIDATES = 12
"""Of a model with more than EXACT_UP_TO heads, the heads that are ablated: the first so many by attention to what followed the
earlier occurrence and by attention to the previous token at the end of pre-pre-training, and as many others."""
COLUMNS = ["layer", "head", "quantity", "value", "low", "high"]
PARTS = ("induction", "input", "matching", "copying")
QUANTITIES = ("qk_norm", "ov_norm", *PARTS, "effect")


class Start(NamedTuple):
    """What is fixed at the end of pre-pre-training."""

    partners: list[tuple[int, int] | None]
    heads: set[tuple[int, int]] | None
    """Heads that are ablated; None: all."""


def start_of(parent: Run) -> Start:
    """Partners and heads by the last checkpoint of a pre-pre-training. NotApplicable as `circuit`."""
    step = parent.steps[-1]
    model = Series(parent).open(step)
    trunk = Trunk(model)
    found = circuit(trunk, _task(subject_of(parent, step, model)).batch)
    return Start(found.partners(), _heads(found))


def _heads(found: Circuit) -> set[tuple[int, int]] | None:
    n = found.induction.shape[1]
    if found.induction.numel() <= EXACT_UP_TO:
        return None
    chosen = {int(i) for part in (found.induction, found.previous) for i in (-part.flatten()).argsort()[:CANDIDATES]}
    others = [i for i in range(found.induction.numel()) if i not in chosen]
    drawn = np.random.default_rng(0).choice(others, min(CANDIDATES, len(others)), replace=False)
    return {divmod(int(i), n) for i in [*chosen, *drawn]}


def subject_of(run: Run, step: int, model: Any) -> Subject:
    """What stimuli need to know of a checkpoint."""
    from nca_interp.analysis.stimuli.subject import describe
    from nca_interp.model.checkpoint import read_provenance

    directory = run.checkpoint(step)
    return describe(directory, model.config, read_provenance(directory))


def _task(subject: Subject) -> Task:
    from dataclasses import replace

    task = repeated_task(subject)
    batch = repeated_tokens(PERIOD, sequences=SEQUENCES).build(subject)
    assert batch.period is not None
    first, n = batch.start, batch.period
    counts = np.zeros(batch.targets.shape[1], dtype=bool)
    counts[first + n : first + 2 * n - 1] = True
    metric = task.metrics[METRIC]._replace(values=lambda s, b: s.nll[:, first + n : first + 2 * n - 1].mean(1))
    return replace(task, batch=batch, counts=counts, metrics={METRIC: metric})


def measure_heads(model: Any, subject: Subject, start: Start, trunk: Trunk | None = None) -> pd.DataFrame:
    """Rows (COLUMNS) of every head of an open model. `effect`: loss of repeated tokens with the head's output replaced by its mean,
    less that without, with its 95 % interval over sequences. NotApplicable where the model's layers cannot be resumed."""
    trunk, task = trunk or Trunk(model), _task(subject)
    found = circuit(trunk, task.batch, start.partners)
    norms = weight_norms(trunk)
    lost = ablate(trunk, task, knock_outs=False, heads=start.heads)
    rows: list[tuple[Any, ...]] = []
    for layer in range(trunk.n_layers):
        partner = start.partners[layer]
        given = float(found.previous[partner]) if partner is not None else np.nan
        for head in range(trunk.n_heads):
            values: dict[str, Any] = {
                "qk_norm": norms[0][layer, head], "ov_norm": norms[1][layer, head], "induction": found.induction[layer, head],
                "input": given, "matching": found.matching[layer, head], "copying": found.copying[layer, head],
            }  # fmt: skip
            rows += [(layer, head, name, float(value), np.nan, np.nan) for name, value in values.items()]
    width = float(stats.t.ppf(0.975, SEQUENCES - 1)) / np.sqrt(SEQUENCES)
    for site in lost.after:
        change = lost.change(site, METRIC).numpy()
        mean, half = float(change.mean()), width * float(change.std(ddof=1))
        rows.append((site.layer, site.head, "effect", mean, mean - half, mean + half))
    return pd.DataFrame(rows, columns=COLUMNS)


@torch.inference_mode()
def weight_norms(trunk: Trunk) -> tuple[torch.Tensor, torch.Tensor]:
    """Frobenius norms of W_Q W_K^T and W_V W_O of every head [layer, head], as they stand (norm gains not folded in, no rotation)."""
    qk, ov = [], []
    for n in range(trunk.n_layers):
        attn: Any = trunk.attention(n)
        if not all(hasattr(attn, f"{name}_proj") for name in "qkvo"):
            raise NotApplicable(f"{type(attn).__name__} is not the attention of a Llama")
        q, k, v = (
            getattr(attn, f"{name}_proj").weight.float().unflatten(0, (-1, attn.head_dim)) for name in "qkv"
        )  # [head, d_head, d_model]
        k, v = (x.repeat_interleave(trunk.n_heads // len(x), 0) for x in (k, v))
        o = attn.o_proj.weight.float().T.unflatten(0, (trunk.n_heads, -1))  # [head, d_head, d_model]
        qk.append(_product(q, k))
        ov.append(_product(v, o))
    return torch.stack(qk).cpu(), torch.stack(ov).cpu()


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """||a^T b||, both [head, d_head, d_model], through the d_head x d_head Gram matrices."""
    return ((a @ a.mT) * (b @ b.mT)).sum((1, 2)).clamp(min=0).sqrt()
