"""The tokens of a head's two circuits: W_E W_V W_O W_U, what it writes on reading a token, and W_E W_Q W_K^T W_E^T, what it
attends to (Elhage et al. 2021, A Mathematical Framework for Transformer Circuits).

Norms are folded in (`causes/folded.py`), biases and positions left out; rows of W_E are scaled to one length, as the norm
before the attention does up to what it centres. Layers before the head are left out, too: this is the direct path, and says
most of heads that read the embedding. Of a vocabulary of V tokens, n are read (`Options.sources`) and all V can be written,
a few rows of the [n, V] matrix at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import Field

from nca_interp.analysis.causes.folded import Heads, folding
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.base import Frozen

ROWS = 32
"""Tokens read at a time: memory stays below ROWS * V * 12 bytes beside the weights."""
FIRST = 10
"""A token is copied that is raised to one of the first so many of the vocabulary."""
PAIRS, EACH = 4, 3
"""Tokens read of which is shown what is written, and how many written ones of each."""


class Options(Frozen):
    """Options of the tokens of heads."""

    sources: int = Field(default=256, ge=2, le=8192)
    """Tokens that are read, the most frequent of the natural text; without a text as many, evenly spaced over the vocabulary."""
    tokens: int = Field(default=6, ge=1, le=50)
    """Tokens that are listed."""


class Found(NamedTuple):
    """One token or pair of tokens of a circuit."""

    circuit: str
    """promotes, suppresses, pair, copies, reads, attends, match."""
    place: int
    source: int | None
    """Token read, or (attends, match) that of the query."""
    target: int | None
    """Token written, or (attends, match) that of the key."""
    value: float


def choose_sources(rows: np.ndarray | None, n_tokens: int, n: int) -> np.ndarray:
    """The n most frequent tokens of rows of text, ascending where equally frequent; without rows evenly spaced ids."""
    if rows is None:
        return np.unique(np.linspace(0, n_tokens - 1, min(n, n_tokens)).round().astype(np.int64))
    counts = np.bincount(np.asarray(rows).ravel().astype(np.int64), minlength=n_tokens)[:n_tokens]
    order = np.argsort(-counts, kind="stable")[:n]
    return order[counts[order] > 0]


def head_tokens(
    model: Any, sources: np.ndarray, options: Options, tell: Callable[[float], None] = lambda share: None
) -> Iterator[tuple[int, int, list[Found]]]:
    """(layer, head, what was found) of every head; layers are numbered among those with attention. tell(share of the layers that
    are done) is called after each.

    NotApplicable where what heads move is not linear in the stream; where only queries and keys are not, `attends` and `match`
    are left out.
    """
    try:
        yield from _read(model, sources, options, True, tell)
    except NotApplicable:
        yield from _read(model, sources, options, False, tell)


def _read(
    model: Any, sources: np.ndarray, options: Options, qk: bool, tell: Callable[[float], None]
) -> Iterator[tuple[int, int, list[Found]]]:
    with folding(model, qk) as parts:
        chosen = torch.from_numpy(sources)
        read, w_u = parts.embeddings(chosen)
        read = (read / read.norm(dim=1, keepdim=True).clamp(min=1e-300)).float()
        centred = w_u.sub_(w_u.mean(1, keepdim=True)).float()  # a constant changes no probability
        del w_u
        # all layers are checked before the first is handed on, one at a time in memory
        found = []
        for layer, heads in enumerate(parts.layers()):
            for head in range(len(heads.w_v)):
                found.append((layer, head, _of_head(heads, head, read, centred, chosen, options, qk)))
            tell((layer + 1) / parts.n_layers)
    yield from found


def _of_head(
    heads: Heads, head: int, read: torch.Tensor, w_u: torch.Tensor, chosen: torch.Tensor, options: Options, qk: bool
) -> list[Found]:
    values, written = read @ heads.w_v[head].float(), heads.w_o[head].float()
    found = list(_ov(values, written @ w_u, chosen, options.tokens))
    sizes = (values @ written).norm(dim=1)
    found += _top("reads", sizes, options.tokens, chosen, source=True)
    if qk:
        turned = heads.w_q[head] @ heads.rotations[0]
        found += _qk(read @ turned.float(), read @ heads.w_k[head].float(), chosen, options.tokens)
    return found


def _ov(values: torch.Tensor, out: torch.Tensor, chosen: torch.Tensor, n: int) -> Iterator[Found]:
    """values [source, d_head]; out [d_head, token], centred over tokens."""
    mean = values.mean(0) @ out
    everything = torch.arange(out.shape[1])
    yield from _top("promotes", mean, n, everything)
    yield from _top("suppresses", -mean, n, everything, sign=-1.0)
    best, copied = [], 0
    for rows, ids in zip(values.split(ROWS), chosen.split(ROWS), strict=True):
        logits = rows @ out
        own = logits.gather(1, ids[:, None])
        higher = torch.gt(logits, own, out=torch.empty_like(logits)).sum(
            1
        )  # several times as fast as to add up booleans
        copied += int(((higher < FIRST) & (own[:, 0] > 0)).sum())
        best.append(logits.sub_(mean).amax(1))
    sources = torch.cat(best).topk(min(PAIRS, len(values))).indices
    top = (values[sources] @ out - mean).topk(min(EACH, len(mean)), dim=1)
    for i, source in enumerate(chosen[sources].tolist()):
        for place, (value, token) in enumerate(zip(top.values[i].tolist(), top.indices[i].tolist(), strict=True)):
            yield Found("pair", 1 + EACH * i + place, source, token, value)
    yield Found("copies", 1, None, None, copied / len(chosen))


def _qk(query: torch.Tensor, key: torch.Tensor, chosen: torch.Tensor, n: int) -> Iterator[Found]:
    """query, key [source, d_head]."""
    scores = query @ key.T
    scores = scores - scores.mean(1, keepdim=True)  # a constant of a query changes no attention
    mean = scores.mean(0)
    yield from _top("attends", mean, n, chosen)
    apart = scores - mean
    best = apart.max(1)
    for place, source in enumerate(best.values.topk(min(PAIRS, len(chosen))).indices.tolist(), 1):
        key_of = int(best.indices[source])
        yield Found("match", place, int(chosen[source]), int(chosen[key_of]), float(best.values[source]))


def _top(
    circuit: str, values: torch.Tensor, n: int, ids: torch.Tensor, source: bool = False, sign: float = 1.0
) -> Iterator[Found]:
    top = values.topk(min(n, len(values)))
    for place, (value, index) in enumerate(zip(top.values.tolist(), top.indices.tolist(), strict=True), 1):
        token = int(ids[index])
        yield Found(circuit, place, token if source else None, None if source else token, sign * value)
