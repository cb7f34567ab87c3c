"""What an intervention is judged by: stimuli, the targets that count, and one number a sequence for each metric."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from nca_interp.analysis.attention.losses import read_logits
from nca_interp.analysis.causes.resume import Passage, Trunk
from nca_interp.analysis.stimuli.base import Batch, NotApplicable, Subject
from nca_interp.analysis.stimuli.streams import nca_frames
from nca_interp.data.specs import NcaSpec

SLICE_TOKENS = 2**12
"""Tokens that go through together; what enters every layer is kept for them."""


class Scored(NamedTuple):
    """What the model said at the targets of a task [batch, target]; zero at targets that do not count."""

    nll: torch.Tensor
    """Loss in nats."""
    top: torch.Tensor
    """Likeliest token; where no metric reads it, zero."""


Values = Callable[[Scored, Batch], torch.Tensor]


class Metric(NamedTuple):
    """One number a sequence."""

    values: Values
    """function(scored, stimulus) -> [batch]."""
    unit: str
    harm: int
    """1 where a damaged model's value rises, -1 where it falls."""


@dataclass(frozen=True)
class Task:
    """A stimulus and what is measured on it."""

    name: str
    batch: Batch
    counts: np.ndarray
    """Bool [target]: targets that some metric reads; the others are not computed."""
    metrics: dict[str, Metric]
    reads_top: bool = False

    @property
    def aligned(self) -> bool:
        """Whether one position means the same in every sequence: means are then taken for each position."""
        return self.batch.period is not None or self.batch.frame is not None

    def slices(self) -> list[Task]:
        """The task cut into groups of whole sequences, at least two in each."""
        n = len(self.batch.inputs)
        parts = max(1, n // max(2, SLICE_TOKENS // self.batch.length))
        edges = np.linspace(0, n, parts + 1).astype(int)
        return [replace(self, batch=self.batch.rows(a, b)) for a, b in zip(edges, edges[1:], strict=False)]

    def tokens(self, device: Any) -> torch.Tensor:
        """Inputs [batch, position]."""
        return torch.from_numpy(np.asarray(self.batch.inputs, dtype=np.int64)).to(device)


def score(trunk: Trunk, passage: Passage, resid_post: torch.Tensor, task: Task) -> dict[str, torch.Tensor]:
    """Every metric [batch] of a task, given the last layer's resid_post, through the final norm and the unembedding."""
    device = resid_post.device
    places = torch.from_numpy(np.flatnonzero(task.counts)).to(device)
    targets = torch.from_numpy(np.asarray(task.batch.targets, dtype=np.int64)).to(device)
    wanted, ids = targets[:, places].flatten(), passage.inputs[:, places].flatten()
    nll, top = torch.zeros(len(wanted), device=device), torch.zeros_like(wanted)

    def read(part: slice, logits: torch.Tensor) -> None:
        nll[part] = F.cross_entropy(logits, wanted[part], reduction="none")
        if task.reads_top:
            top[part] = logits.argmax(-1)

    with torch.inference_mode():
        hidden = trunk.final_norm(resid_post[:, places]).flatten(0, 1)
    read_logits(trunk.model, passage.output, hidden, ids, read)
    shape = (len(targets), len(places))
    whole = Scored(torch.zeros(targets.shape, device=device), torch.zeros_like(targets))
    whole.nll[:, places], whole.top[:, places] = nll.view(shape), top.view(shape)
    whole = Scored(whole.nll.cpu(), whole.top.cpu())
    return {name: metric.values(whole, task.batch).double() for name, metric in task.metrics.items()}


def tasks_for(
    subject: Subject, names: Collection[str] = ("repeated_tokens", "natural", "nca")
) -> tuple[list[Task], dict[str, str]]:
    """The tasks that a checkpoint can take, of those named, and why it cannot take the others."""
    tasks, skipped = [], {}
    for name, make in (("repeated_tokens", repeated_task), ("natural", natural_task), ("nca", nca_task)):
        try:
            if name in names:
                tasks.append(make(subject))
        except NotApplicable as reason:
            skipped[name] = str(reason)
    return tasks, skipped


def repeated_task(subject: Subject) -> Task:
    """Loss of random tokens when they come again, and what the repeat gains (probe repeated_token_gain)."""
    gain = _probe("repeated_token_gain")
    batch = gain.stimulus.build(subject)
    assert batch.period is not None
    first, n = batch.start, batch.period
    counts = np.zeros(batch.targets.shape[1], dtype=bool)
    counts[first : first + n - 1] = counts[first + n : first + 2 * n - 1] = True

    def loss(scored: Scored, stimulus: Batch) -> torch.Tensor:
        return scored.nll[:, first + n : first + 2 * n - 1].mean(1)

    metrics = {
        "repeated_token_loss": Metric(loss, "nats per token", 1),
        "repeated_token_gain": Metric(lambda s, b: gain.function(s.nll, b), "nats per token", -1),
    }
    return Task("repeated_tokens", batch, counts, metrics)


def natural_task(subject: Subject) -> Task:
    """Loss on the model's own data, and its in-context-learning score (probe in_context_learning)."""
    learning = _probe("in_context_learning")
    batch = learning.stimulus.build(subject)
    metrics = {
        "own_loss": Metric(lambda s, b: s.nll.mean(1), "nats per token", 1),
        "in_context_learning": Metric(lambda s, b: learning.function(s.nll, b), "nats per token", 1),
    }
    return Task("natural", batch, np.ones(batch.targets.shape[1], dtype=bool), metrics)


def nca_task(subject: Subject) -> Task:
    """Loss and accuracy of NCA patches from the second frame on; of cells too where the checkpoint knows NCA tokens."""
    batch = nca_frames().build(subject)
    frame = batch.frame
    assert frame is not None
    place = np.arange(1, batch.targets.shape[1] + 1) - frame.start
    inside = place % frame.tokens
    counts = (place >= frame.tokens) & (inside > 0) & (inside < frame.tokens - 1)
    which = torch.from_numpy(counts)
    metrics = {
        "nca_loss": Metric(lambda s, b: s.nll[:, which].mean(1), "nats per token", 1),
        "nca_patch_accuracy": Metric(
            lambda s, b: (s.top == torch.from_numpy(b.targets))[:, which].double().mean(1), "share", -1
        ),
    }
    if subject.rows is not None and (subject.spec or {}).get("kind") == "nca":
        spec = NcaSpec.model_validate(subject.spec)
        metrics["nca_cell_accuracy"] = Metric(lambda s, b: _cells(s, b, spec)[:, which].mean(1), "share", -1)
    return Task("nca", batch, counts, metrics, reads_top=True)


def _cells(scored: Scored, batch: Batch, spec: NcaSpec) -> torch.Tensor:
    """Share of a patch's cells that the likeliest token has right [batch, target]; a delimiter has none."""
    targets, n = torch.from_numpy(batch.targets), spec.n_states
    powers = n ** torch.arange(spec.patch**2)
    right = scored.top[..., None] // powers % n == targets[..., None] // powers % n
    return right.double().mean(-1) * (scored.top < n**spec.patch**2)


def _probe(name: str) -> Any:
    from nca_interp.discover import find

    return find("probes", name).value
