"""Circuits read off the weights: OV copying, QK matching, and how much of what one head writes another reads.

Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits). Row vectors: W_OV = W_V W_O, W_QK = W_Q R W_K^T with
R the rotary embedding at a relative offset. Gains of norms are folded into the weights; all of it in float64. Chance is the
mean over matrices of the same singular values and random directions, which is not zero for composition; in large models, see partners.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd
import torch

from nca_interp.analysis.causes.folded import Weights, read_weights
from nca_interp.analysis.causes.options import EXACT_UP_TO
from nca_interp.analysis.causes.partners import COLUMNS, strongest
from nca_interp.analysis.spectra import eigvals, svdvals

__all__ = ["Weights", "composition_scores", "eigenvalue_scores", "not_computed", "read_weights", "weight_rows"]
DRAWS = 64
"""Random matrices that chance is the mean of."""
LARGE_DRAWS = 16
"""Of a model with more than EXACT_UP_TO heads."""
NOT_COMPUTED = "not computed (the weights' spectrum did not converge)"


def weight_rows(model: Any) -> list[dict[str, Any]]:
    """Eigenvalue and composition scores of a model as rows; those that could not be computed have no value and say so in
    their unit. NotApplicable as `read_weights`."""
    weights = read_weights(model)
    frame = pd.concat([eigenvalue_scores(weights), composition_scores(weights)], ignore_index=True)
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")  # type: ignore[assignment]
    return [{**row, "unit": "score" if row["value"] is not None else f"score, {NOT_COMPUTED}"} for row in rows]


def not_computed(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Of `weight_rows` (others are left aside) the measures that some heads lack -> which heads, and why."""
    heads: dict[str, dict[str, None]] = {}
    for row in rows:
        if NOT_COMPUTED in row["unit"]:
            heads.setdefault(row["probe"], {})[f"{row['layer']}.{row['head']}"] = None
    return {probe: f"{NOT_COMPUTED} for {', '.join(names)}" for probe, names in heads.items()}


def eigenvalue_score(matrix: torch.Tensor) -> torch.Tensor:
    """sum Re(lambda) / sum |lambda| over eigenvalues [..., n, n] -> [...]: 1 all positive, -1 all negative, 0 for zeros.

    NaN where the eigenvalues could not be computed.
    """
    values = eigvals(matrix)
    return values.real.sum(-1) / values.abs().sum(-1).clamp(min=1e-300)


def eigenvalue_scores(weights: Weights) -> pd.DataFrame:
    """ov_copying and qk_matching of every head, columns COLUMNS; -1 to 1.

    ov_copying: of W_E W_OV W_U [token, token]; 1 where attending to a token raises its own logit. qk_matching: of
    W_E W_QK W_E^T; 1 where a token attends to itself. Both through the d_head x d_head matrix of the same spectrum. NaN for a
    head whose eigenvalues could not be computed.
    """
    n_layers, n_heads = weights.w_q.shape[:2]
    tokens, same = weights.w_u @ weights.w_e, weights.w_e.T @ weights.w_e
    copying = eigenvalue_score(weights.w_o @ tokens @ weights.w_v)[None]
    key = weights.w_k.mT @ same
    turns = weights.rotations.transpose(0, 1)[:, :, None]  # [offset, layer, 1, d_head, d_head]
    matching = torch.stack([eigenvalue_score(key @ weights.w_q @ r) for r in turns])
    ov = _spectrum(weights.w_v, weights.w_o.mT)
    qk = _spectrum(weights.w_q, weights.w_k)
    rows = []
    for name, value, middle, spectra in (("ov_copying", copying, tokens, ov), ("qk_matching", matching, same, qk)):
        random = _random_scores(middle, spectra)
        for layer in range(n_layers):
            for head in range(n_heads):
                drawn = random[:, layer, head]
                for at, score in _offsets(value[:, layer, head]):
                    rows.append((name, None, None, layer, head, at, score, *_moments(drawn)))
    return pd.DataFrame(rows, columns=COLUMNS)


def _offsets(values: torch.Tensor) -> list[tuple[str, float]]:
    """A score [offset] at 0, and averaged where there are offsets."""
    found = [("offset 0", float(values[0]))]
    return found if len(values) == 1 else [*found, (f"mean of {len(values)} offsets", float(values.mean()))]


def _moments(drawn: torch.Tensor) -> tuple[float, float, int]:
    """Mean, standard deviation and number of the draws that could be computed."""
    known = drawn[drawn.isfinite()]
    return (float(known.mean()), float(known.std()), len(known)) if len(known) > 1 else (math.nan, math.nan, 0)


def _triangle(weight: torch.Tensor) -> torch.Tensor:
    """R [..., n, n] of weight [..., d, n] = Q R: norms of products with the weight are norms of products with R."""
    return torch.linalg.qr(weight).R


def _spectrum(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Singular values [..., n] of left right^T, both [..., d, n]."""
    return svdvals(_triangle(left) @ _triangle(right).mT)


def _directions(d_model: int, n: int, draws: int = DRAWS, seed: int = 0) -> torch.Tensor:
    """Random orthonormal columns [draw, d_model, n], uniform up to signs."""
    drawn = torch.randn(draws, d_model, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    signs = torch.randn(draws, 1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1)).sign()
    return torch.linalg.qr(drawn).Q * signs


def _random_scores(middle: torch.Tensor, spectra: torch.Tensor) -> torch.Tensor:
    """Eigenvalue scores [draw, layer, head] of `middle` read and written along random directions with given strengths."""
    d_model, n = len(middle), spectra.shape[-1]  # no more directions than d_model: `_spectrum` is of the smaller side
    draws = LARGE_DRAWS if spectra.shape[0] * spectra.shape[1] > EXACT_UP_TO else DRAWS
    left, right = (_directions(d_model, n, draws, seed) for seed in (0, 2))
    cores = right.mT @ middle @ left  # [draw, n, n]
    return torch.stack([eigenvalue_score(spectra[..., None] * core) for core in cores])


def composition_scores(weights: Weights) -> pd.DataFrame:
    """Q-, K- and V-composition of pairs of an earlier and a later head, columns COLUMNS; 0 to 1.

    q_composition: ||W_OV W_QK|| / (||W_OV|| ||W_QK||), Frobenius norms; k_composition with W_QK transposed;
    v_composition with the later head's W_OV. (value - chance) / sd is a z-score: against random directions, and in a model of
    more than EXACT_UP_TO heads, of which the STRONGEST pairs are given, against the other partners of both heads.
    """
    n_layers, n_heads = weights.w_q.shape[:2]
    if n_layers * n_heads > EXACT_UP_TO:
        return strongest(*_every_pair(weights), n_heads)
    random = _directions(weights.w_q.shape[2], min(weights.w_q.shape[2:])).square()
    rows = [_pairs(pair, random) for later in range(1, n_layers) for pair in _layer_pairs(weights, later)]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)


class _Pair(NamedTuple):
    """Of two layers and a kind of composition."""

    kind: str
    earlier: int
    later: int
    values: torch.Tensor
    """[offset, earlier head, later head]."""
    first: torch.Tensor
    """Singular values of the earlier heads' W_OV [head, d_head]."""
    second: torch.Tensor
    """Of what the later heads read with [offset, head, d_head]."""


def _layer_pairs(weights: Weights, later: int) -> Iterator[_Pair]:
    """Of one later layer with each earlier one. Norms of products come from d_head x d_head products P, as
    ||P R||^2 = <P^T P, R R^T>, so that an offset costs no product of its own."""
    turns = weights.rotations[later]
    q, k, o = (_triangle(w[later]) for w in (weights.w_q, weights.w_k, weights.w_o.mT))
    score, written = torch.stack([q @ r @ k.mT for r in turns]), _triangle(weights.w_v[later]) @ o.mT
    read = {  # what is read of the stream [head, d_model, d_head], what follows [offset, head, d_head, n], singular values
        "q": (weights.w_q[later], torch.stack([r @ k.mT for r in turns]), svdvals(score)),
        "k": (weights.w_k[later], torch.stack([r.mT @ q.mT for r in turns]), svdvals(score)),
        "v": (weights.w_v[later], o.mT[None], svdvals(written)[None]),
    }
    for earlier in range(later):
        v = _triangle(weights.w_v[earlier])
        out = v @ weights.w_o[earlier]
        first = svdvals(v @ _triangle(weights.w_o[earlier].mT).mT)
        for kind, (reads, rest, second) in read.items():
            between = out[:, None] @ reads  # [earlier, later, d_head, d_head]
            squares = torch.einsum("abij,obij->oab", between.mT @ between, rest @ rest.mT)
            sizes = torch.linalg.vector_norm(first, dim=-1)[:, None] * torch.linalg.vector_norm(second, dim=-1)[:, None]
            yield _Pair(kind, earlier, later, squares.clamp(min=0).sqrt() / sizes.clamp(min=1e-300), first, second)


def _every_pair(weights: Weights) -> tuple[dict[str, torch.Tensor], int]:
    """By kind, the compositions at offset 0 and averaged over offsets [2, earlier head of all, later head of all], NaN where not
    earlier; the number of offsets."""
    n_layers, n_heads = weights.w_q.shape[:2]
    shape = (2, n_layers * n_heads, n_layers * n_heads)
    found = {kind: torch.full(shape, torch.nan, dtype=torch.float64) for kind in "qkv"}
    for later in range(1, n_layers):
        for pair in _layer_pairs(weights, later):
            rows, columns = (slice(n * n_heads, (n + 1) * n_heads) for n in (pair.earlier, later))
            found[pair.kind][:, rows, columns] = torch.stack([pair.values[0], pair.values.mean(0)])
    return found, weights.rotations.shape[1]


def _pairs(pair: _Pair, random: torch.Tensor) -> pd.DataFrame:
    """Rows of one pair of layers, against random directions."""
    first, second, values = pair.first, pair.second, pair.values
    sizes = torch.linalg.vector_norm(first, dim=-1)[:, None] * torch.linalg.vector_norm(second, dim=-1)[:, None, :]
    random = random[:, : first.shape[-1], : second.shape[-1]]
    squares = torch.einsum("ai,nij,obj->noab", first**2, random, second**2)
    drawn = squares.sqrt() / sizes.clamp(min=1e-300)
    rows = []
    for a in range(values.shape[1]):
        for b in range(values.shape[2]):
            for at, score in _offsets(values[:, a, b]):
                chance = drawn[:, 0, a, b] if at == "offset 0" else drawn[:, :, a, b].mean(1)
                rows.append((f"{pair.kind}_composition", pair.earlier, a, pair.later, b, at, score, *_moments(chance)))
    return pd.DataFrame(rows, columns=COLUMNS)
