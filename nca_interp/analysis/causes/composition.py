"""Circuits read off the weights: OV copying, QK matching, and how much of what one head writes another reads.

Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits). Row vectors: W_OV = W_V W_O, W_QK = W_Q R W_K^T with
R the rotary embedding at a relative offset. Gains of norms are folded into the weights; all of it in float64. Chance is the
mean over matrices of the same singular values and random directions, which is not zero for composition.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch

from nca_interp.analysis.causes.folded import Weights, read_weights
from nca_interp.analysis.spectra import eigvals, svdvals

__all__ = ["Weights", "composition_scores", "eigenvalue_scores", "not_computed", "read_weights", "weight_rows"]
DRAWS = 64
"""Random matrices that chance is the mean of."""
NOT_COMPUTED = "not computed (the weights' spectrum did not converge)"
COLUMNS = ["probe", "from_layer", "from_head", "layer", "head", "at", "value", "chance", "sd", "n"]


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
    left, right = _directions(d_model, n, seed=0), _directions(d_model, n, seed=2)
    cores = right.mT @ middle @ left  # [draw, n, n]
    return torch.stack([eigenvalue_score(spectra[..., None] * core) for core in cores])


def composition_scores(weights: Weights) -> pd.DataFrame:
    """Q-, K- and V-composition of every pair of an earlier and a later head, columns COLUMNS; 0 to 1.

    q_composition: ||W_OV W_QK|| / (||W_OV|| ||W_QK||), Frobenius norms; k_composition with W_QK transposed;
    v_composition with the later head's W_OV. `sd` is over random draws, so (value - chance) / sd is a z-score.
    """
    n_layers = len(weights.w_q)
    q, k, v, o = (_triangle(w) for w in (weights.w_q, weights.w_k, weights.w_v, weights.w_o.mT))
    ov = svdvals(v @ o.mT)
    random = _directions(weights.w_q.shape[2], max(q.shape[-2], o.shape[-2])).square()
    rows: list[pd.DataFrame] = []
    for later in range(1, n_layers):
        turns = weights.rotations[later]
        qk = torch.stack([svdvals(q[later] @ r @ k[later].mT) for r in turns])
        for earlier in range(later):
            into = {  # [offset, earlier head, later head]: what the later head reads of the earlier one's output
                "q": _norms(v, weights, earlier, weights.w_q[later], [r @ k[later].mT for r in turns]),
                "k": _norms(v, weights, earlier, weights.w_k[later], [r.mT @ q[later].mT for r in turns]),
                "v": _norms(v, weights, earlier, weights.w_v[later], [o[later].mT]),
            }
            for kind, norms in into.items():
                spectra = ov[later][None] if kind == "v" else qk
                rows.append(_pairs(f"{kind}_composition", earlier, later, norms, ov[earlier], spectra, random))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=COLUMNS)


def _norms(
    v: torch.Tensor, weights: Weights, earlier: int, reads: torch.Tensor, rest: list[torch.Tensor]
) -> torch.Tensor:
    """||W_V W_O reads rest|| [offset, earlier head, later head]."""
    between = v[earlier][:, None] @ (weights.w_o[earlier][:, None] @ reads)  # [earlier, later, d_head, d_head]
    return torch.stack([torch.linalg.matrix_norm(between @ r) for r in rest])


def _pairs(
    probe: str,
    earlier: int,
    later: int,
    norms: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    random: torch.Tensor,
) -> pd.DataFrame:
    """Rows of one pair of layers; `first` [head, d_head] and `second` [offset, head, d_head] are singular values."""
    sizes = torch.linalg.vector_norm(first, dim=-1)[:, None] * torch.linalg.vector_norm(second, dim=-1)[:, None, :]
    values = norms / sizes.clamp(min=1e-300)
    random = random[:, : first.shape[-1], : second.shape[-1]]
    squares = torch.einsum("ai,nij,obj->noab", first**2, random, second**2)
    drawn = squares.sqrt() / sizes.clamp(min=1e-300)
    rows = []
    for a in range(values.shape[1]):
        for b in range(values.shape[2]):
            for at, score in _offsets(values[:, a, b]):
                chance = drawn[:, 0, a, b] if at == "offset 0" else drawn[:, :, a, b].mean(1)
                rows.append((probe, earlier, a, later, b, at, score, *_moments(chance)))
    return pd.DataFrame(rows, columns=COLUMNS)
