"""Losses of a model: of lists read twice, and of validation rows by position and by the frequency of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from nca_interp.analysis.attention.access import backbone
from nca_interp.analysis.attention.losses import read_logits
from nca_interp.analysis.retrieval.lists import Lists
from nca_interp.borders import border
from nca_interp.data.tokens import TokenFile

PASS_TOKENS = 2**12
"""Tokens of a forward pass."""
LISTS = ["material", "length", "distance", "item", "sequence", "first", "second", "control"]
"""Columns of `list_losses`."""
PROFILE = ["by", "bin", "low_edge", "high_edge", "sequence", "value", "targets"]
"""Columns of `profile`."""
CLASSES = 5
"""Classes of tokens by frequency; each makes up the same share of the training tokens."""
COUNTED = 2**21
"""Training tokens that are counted."""


def losses_at(model: Any, rows: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Loss in nats [row, place] of the tokens of rows [row, position] at `places` (each 1 or more), given all before them."""
    found = []
    step = max(1, PASS_TOKENS // rows.shape[1])
    for start in range(0, len(rows), step):
        tokens = torch.from_numpy(np.asarray(rows[start : start + step], dtype=np.int64)).to(model.device)
        with border("its forward pass fails", model.name_or_path or type(model).__name__), torch.inference_mode():
            # what comes after the last place is not needed
            out = backbone(model)(input_ids=tokens[:, : int(places.max())], use_cache=False)
        at = torch.from_numpy(places).to(model.device)
        hidden, ids, wanted = (
            part.flatten(0, 1) for part in (out.last_hidden_state[:, at - 1], tokens[:, at - 1], tokens[:, at])
        )
        nll = torch.empty(len(wanted), device=model.device)

        def read(part: slice, logits: torch.Tensor, nll: torch.Tensor = nll, wanted: torch.Tensor = wanted) -> None:
            nll[part] = F.cross_entropy(logits, wanted[part], reduction="none")

        read_logits(model, out, hidden, ids, read)
        found.append(nll.view(len(tokens), -1).double().cpu().numpy())
    return np.concatenate(found)


def list_losses(model: Any, lists: Sequence[Lists]) -> pd.DataFrame:
    """Mean loss in nats a token (LISTS), a row a sequence: `first` and `second` presentation of a list, and `control`, the second
    presentation where another list came first."""
    rows: list[tuple[Any, ...]] = []
    for one in lists:
        n, half = len(one.same), len(one.first)
        nll = losses_at(model, np.concatenate([one.same, one.other]), np.concatenate([one.first, one.second]))
        means = nll[:n, :half].mean(1), nll[:n, half:].mean(1), nll[n:, half:].mean(1)
        cell = one.material, one.length, one.distance, one.item
        rows += [(*cell, i, *values) for i, values in enumerate(zip(*means, strict=True))]
    return pd.DataFrame(rows, columns=LISTS)


class Classes(NamedTuple):
    """Tokens by how common they are in training."""

    of_token: np.ndarray
    """Class of each token, 0 the commonest."""
    least: np.ndarray
    """Occurrences in a million tokens of the rarest token of each class [class]; NaN of a class without tokens."""
    most: np.ndarray
    """Of its commonest."""


def profile(model: Any, rows: np.ndarray, first_target: int, classes: Classes | None) -> pd.DataFrame:
    """Mean loss of each row by position and by class of token (PROFILE). `first_target`: place of the first token that counts;
    `classes`: of `frequency_classes`, or None where frequencies are not known.

    Positions: tokens before the target, in bins that double. A row without a target in a bin has no line for it.
    """
    places = np.arange(max(1, first_target), rows.shape[1])
    nll = losses_at(model, rows, places)
    bins = np.broadcast_to(np.floor(np.log2(places)).astype(int), nll.shape)
    found = [
        ("position", b, 2.0**b, min(2.0 ** (b + 1) - 1, rows.shape[1] - 1), *mean) for b, *mean in _binned(bins, nll)
    ]
    if classes is not None:
        found += [
            ("frequency", c, classes.least[c], classes.most[c], *mean)
            for c, *mean in _binned(classes.of_token[rows[:, places]], nll)
        ]
    return pd.DataFrame(found, columns=PROFILE)


def _binned(bins: np.ndarray, nll: np.ndarray) -> Iterator[tuple[int, int, float, int]]:
    """Bin, row, mean and number of targets, for each row that has some in the bin."""
    for value in np.unique(bins):
        inside = bins == value
        counts = inside.sum(1)
        sums = np.where(inside, nll, 0.0).sum(1)
        for row in np.flatnonzero(counts):
            yield int(value), int(row), float(sums[row] / counts[row]), int(counts[row])


@lru_cache(maxsize=16)
def training_counts(directory: Path) -> np.ndarray:
    """How often each token occurs in the training rows of a token directory [token]; of at most COUNTED tokens, evenly spread."""
    file = TokenFile.open(directory, verify=False)
    step = max(1, file.train.size // COUNTED)
    return np.bincount(np.asarray(file.train[::step]).ravel(), minlength=file.meta.vocab_size)


def frequency_classes(counts: np.ndarray, classes: int = CLASSES) -> Classes:
    """Classes that each make up about the same share of the tokens that were counted: a token's class says where the middle of its
    share lies among all, commonest first. Tokens that were never seen are of the last class."""
    order = np.argsort(-counts, kind="stable")
    share = counts[order] / max(1, counts.sum())
    middle = np.cumsum(share) - share / 2
    found = np.empty(len(counts), dtype=np.int64)
    found[order] = np.minimum((middle * classes).astype(int), classes - 1)
    found[counts == 0] = classes - 1
    million = 1e6 * counts / max(1, counts.sum())
    parts = [million[found == c] for c in range(classes)]
    return Classes(
        found,
        np.array([p.min() if len(p) else np.nan for p in parts]),
        np.array([p.max() if len(p) else np.nan for p in parts]),
    )
