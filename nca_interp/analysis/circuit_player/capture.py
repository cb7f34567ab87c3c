"""One checkpoint on its sequence: where every head looks, what the model predicts, and what it loses without each head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy import stats

from nca_interp.analysis.attention.access import access, backbone, reading
from nca_interp.analysis.attention.forward import in_place
from nca_interp.analysis.attention.kernel import Layer
from nca_interp.analysis.attention.losses import read_logits
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.causes.ablation import ablate
from nca_interp.analysis.causes.effects import Task, natural_task, nca_task
from nca_interp.analysis.causes.options import EXACT_UP_TO
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.circuit_player.sequence import Sequence
from nca_interp.analysis.stimuli.base import Batch, NotApplicable, Subject
from nca_interp.codes import attention_bytes, share_bytes, triangle
from nca_interp.data.specs import NcaSpec

PREDICTIONS = 3
"""Likeliest next tokens that are kept of each place."""
ABLATED = 16
"""Sequences on which the loss of a head is measured."""
EFFECTS = ["layer", "head", "metric", "value", "low", "high", "n"]


class Seen(NamedTuple):
    """Arrays of one checkpoint on its sequence of n tokens."""

    attention: np.ndarray
    """uint8 [layer, head, n (n + 1) / 2], as `attention_bytes` of `triangle`."""
    truth: np.ndarray
    """uint8 [n - 1]: probability of the token that comes next, as `share_bytes`."""
    top: np.ndarray
    """int32 [n - 1, PREDICTIONS]: the likeliest next tokens, likeliest first."""
    sure: np.ndarray
    """uint8 [n - 1, PREDICTIONS]: their probabilities."""
    cells: np.ndarray
    """uint8 [frame, row, column] of a grid: state of each cell in the likeliest patch; else empty."""
    cells_sure: np.ndarray
    """uint8 [frame, row, column]: probability of that state of that cell, all patches weighed."""


def see(model: Any, sequence: Sequence) -> Seen:
    """What an open model makes of its sequence. NotApplicable where its attention cannot be read."""
    found = access(model)
    if found.way == "none":
        raise NotApplicable(found.reason)
    tokens = torch.from_numpy(sequence.inputs[None]).to(model.device)
    one, layers = Batch(sequence.inputs[None], sequence.inputs[None, 1:]), dict[int, np.ndarray]()

    def sink(handed: Layer) -> None:
        layers[handed.number] = attention_bytes(Attention.of(handed, one).corner(one.length)[0].float().cpu().numpy())

    with torch.inference_mode(), reading(model, sink) as options:
        output = backbone(model)(input_ids=tokens, use_cache=False, **options)
    n, top, sure, truth, cells = len(sequence.inputs), [], [], [], []

    def read(part: slice, logits: torch.Tensor) -> None:
        after = tokens[0, 1:][part].to(logits.device)
        shares = logits.softmax(-1)
        best = shares.topk(min(PREDICTIONS, shares.shape[-1]))
        top.append(best.indices.cpu().numpy())
        sure.append(share_bytes(best.values.cpu().numpy()))
        truth.append(share_bytes(shares.gather(1, after[:, None])[:, 0].cpu().numpy()))
        if sequence.spec is not None:
            cells.append(_cells(logits, sequence.spec))

    read_logits(model, output, output.last_hidden_state[0, : n - 1], tokens[0, : n - 1], read)
    text = model.config.get_text_config()
    maps = triangle(in_place(layers, (int(text.num_hidden_layers), int(text.num_attention_heads))))
    told = _grids(np.concatenate(cells), sequence) if sequence.spec is not None else np.zeros((2, 0, 0, 0), np.uint8)
    return Seen(maps, np.concatenate(truth), np.concatenate(top).astype(np.int32), np.concatenate(sure), *told)


def _cells(logits: torch.Tensor, spec: NcaSpec) -> np.ndarray:
    """uint8 [2, position, cell]: of the likeliest patch the state of each cell, and the probability of that state of that cell."""
    n = spec.n_states
    patches = logits[:, : n**spec.patch**2].softmax(-1)
    digits = torch.arange(patches.shape[1], device=patches.device)
    guess, found = patches.argmax(-1), []
    for cell in range(spec.patch**2):
        state = digits // n**cell % n
        shares = torch.zeros(len(patches), n, device=patches.device).index_add_(1, state, patches)
        guessed = guess // n**cell % n
        found.append((guessed.cpu().numpy(), share_bytes(shares.gather(1, guessed[:, None])[:, 0].cpu().numpy())))
    return np.stack([np.stack([part[i] for part in found], -1).astype(np.uint8) for i in (0, 1)], 1)


def _grids(found: np.ndarray, sequence: Sequence) -> np.ndarray:
    """[position, 2, cell] of the places before each token as [2, frame, row, column]; the first place has no prediction."""
    said, size = sequence.said, sequence.said["patch"]
    places = np.concatenate([np.zeros((1, *found.shape[1:]), np.uint8), found])
    framed = places.reshape(sequence.frames, -1, *found.shape[1:])[:, 1:-1]
    patches = framed.reshape(sequence.frames, said["rows"], said["columns"], 2, size, size)
    side = said["rows"] * size
    return np.ascontiguousarray(patches.transpose(3, 0, 1, 4, 2, 5).reshape(2, sequence.frames, side, side))


def effects(model: Any, subject: Subject, grid: bool) -> pd.DataFrame:
    """EFFECTS of every head: loss on ABLATED rows of its own data with the head's output replaced by its mean, less that without,
    with the 95 % interval over the rows. No row where the model has more than EXACT_UP_TO heads."""
    trunk = Trunk(model)
    if trunk.n_layers * trunk.n_heads > EXACT_UP_TO:
        return pd.DataFrame(columns=EFFECTS)
    task, metric = _task(subject, grid)
    lost = ablate(trunk, task, knock_outs=False)
    n = len(task.batch.inputs)
    width, rows = float(stats.t.ppf(0.975, n - 1)) / np.sqrt(n), []
    for site in lost.after:
        change = lost.change(site, metric).numpy()
        mean, half = float(change.mean()), width * float(change.std(ddof=1))
        rows.append((site.layer, site.head, metric, mean, mean - half, mean + half, n))
    return pd.DataFrame(rows, columns=EFFECTS)


def _task(subject: Subject, grid: bool) -> tuple[Task, str]:
    task, metric = (nca_task(subject), "nca_loss") if grid else (natural_task(subject), "own_loss")
    batch = task.batch.rows(0, min(ABLATED, len(task.batch.inputs)))
    return replace(task, batch=batch, metrics={metric: task.metrics[metric]}, reads_top=False), metric
