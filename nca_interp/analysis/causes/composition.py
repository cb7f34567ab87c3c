"""Circuits read off the weights: OV copying, QK matching, and how much of what one head writes another reads.

Elhage et al. 2021 (A Mathematical Framework for Transformer Circuits). Row vectors: W_OV = W_V W_O, W_QK = W_Q R W_K^T with
R the rotary embedding at a relative offset. Gains of norms are folded into the weights; all of it in float64. Chance is the
mean over matrices of the same singular values and random directions, which is not zero for composition.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import pandas as pd
import torch

from nca_interp.analysis.causes.circuits import wrap
from nca_interp.analysis.stimuli.base import NotApplicable

DRAWS = 64
"""Random matrices that chance is the mean of."""
OFFSETS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Query position minus key position: scores are given at 0 and averaged over those that the context allows."""
COLUMNS = ["probe", "from_layer", "from_head", "layer", "head", "at", "value", "chance", "sd", "n"]


class Weights(NamedTuple):
    """Of all heads, norms folded in, float64. Heads that share keys or values have copies of them."""

    w_e: torch.Tensor
    """[token, d_model]."""
    w_u: torch.Tensor
    """[d_model, token]."""
    w_q: torch.Tensor
    """[layer, head, d_model, d_head]; w_k and w_v the same."""
    w_k: torch.Tensor
    w_v: torch.Tensor
    w_o: torch.Tensor
    """[layer, head, d_head, d_model]."""
    rotations: torch.Tensor
    """[offset, d_head, d_head]: what the query is multiplied by (row vectors); one identity without rotary embedding."""


def read_weights(model: Any) -> Weights:
    """Weights of a Hugging Face model through TransformerLens, which rewrites it: give it a model of its own.

    NotApplicable where scores are not linear in those weights (normalised queries or branches).
    """
    base = model.base_model
    layer: Any = next(iter(getattr(base, "layers", None) or getattr(base, "h", None) or [None]))
    for module, name in ((layer, "post_feedforward_layernorm"), (getattr(layer, "self_attn", None), "q_norm")):
        if hasattr(module, name):
            raise NotApplicable(f"{type(model).__name__} normalises inside its heads or branches ({name})")
    rotations = _rotations(model)
    bridge = wrap(model, "weights")
    bridge.process_weights(fold_ln=True, center_writing_weights=False, center_unembed=False, fold_value_biases=False)
    n_heads = bridge.cfg.n_heads

    def heads(weight: torch.Tensor) -> torch.Tensor:
        wide = weight.detach().double()
        return wide.repeat_interleave(n_heads // wide.shape[1], 1)

    w_q = heads(bridge.W_Q)
    if rotations is None:
        rotations = torch.eye(w_q.shape[-1])[None]
    w_e, w_u = bridge.W_E.detach().double(), bridge.W_U.detach().double()
    return Weights(w_e, w_u, w_q, heads(bridge.W_K), heads(bridge.W_V), heads(bridge.W_O), rotations.double())


def _rotations(model: Any) -> torch.Tensor | None:
    """The model's own rotary embedding at OFFSETS, applied to the unit vectors."""
    base = model.base_model
    rotary, config = getattr(base, "rotary_emb", None), model.config.get_text_config()
    if rotary is None:
        return None
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    apply = getattr(sys.modules[type(base).__module__], "apply_rotary_pos_emb", None)
    if apply is None:
        raise NotApplicable(f"the rotary embedding of {type(model).__name__} is not a function of its module")
    unit = torch.eye(width)[None, None]
    offsets = [o for o in OFFSETS if o < config.max_position_embeddings]
    with torch.no_grad():
        turned = [apply(unit, unit, *rotary(unit[0], torch.full((1, width), o)))[0][0, 0] for o in offsets]
    return torch.stack(turned)


def eigenvalue_score(matrix: torch.Tensor) -> torch.Tensor:
    """sum Re(lambda) / sum |lambda| over eigenvalues [..., n, n] -> [...]: 1 all positive, -1 all negative, 0 for zeros."""
    values = torch.linalg.eigvals(matrix)
    return values.real.sum(-1) / values.abs().sum(-1).clamp(min=1e-300)


def eigenvalue_scores(weights: Weights) -> pd.DataFrame:
    """ov_copying and qk_matching of every head, columns COLUMNS; -1 to 1.

    ov_copying: of W_E W_OV W_U [token, token]; 1 where attending to a token raises its own logit. qk_matching: of
    W_E W_QK W_E^T; 1 where a token attends to itself. Both through the d_head x d_head matrix of the same spectrum.
    """
    turn, (n_layers, n_heads) = weights.rotations, weights.w_q.shape[:2]
    tokens, same = weights.w_u @ weights.w_e, weights.w_e.T @ weights.w_e
    copying = eigenvalue_score(weights.w_o @ tokens @ weights.w_v)[None]
    key = weights.w_k.mT @ same
    matching = torch.stack([eigenvalue_score(key @ weights.w_q @ r) for r in turn])
    ov = _spectrum(weights.w_v, weights.w_o.mT)
    qk = _spectrum(weights.w_q, weights.w_k)
    rows = []
    for name, value, middle, spectra in (("ov_copying", copying, tokens, ov), ("qk_matching", matching, same, qk)):
        random = _random_scores(middle, spectra)
        for layer in range(n_layers):
            for head in range(n_heads):
                drawn = random[:, layer, head]
                for at, score in _offsets(value[:, layer, head]):
                    rows.append(
                        (name, None, None, layer, head, at, score, float(drawn.mean()), float(drawn.std()), DRAWS)
                    )
    return pd.DataFrame(rows, columns=COLUMNS)


def _offsets(values: torch.Tensor) -> list[tuple[str, float]]:
    """A score [offset] at 0, and averaged where there are offsets."""
    found = [("offset 0", float(values[0]))]
    return found if len(values) == 1 else [*found, (f"mean of {len(values)} offsets", float(values.mean()))]


def _triangle(weight: torch.Tensor) -> torch.Tensor:
    """R [..., n, n] of weight [..., d, n] = Q R: norms of products with the weight are norms of products with R."""
    return torch.linalg.qr(weight).R


def _spectrum(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Singular values [..., n] of left right^T, both [..., d, n]."""
    return torch.linalg.svdvals(_triangle(left) @ _triangle(right).mT)


def _directions(d_model: int, n: int, draws: int = DRAWS, seed: int = 0) -> torch.Tensor:
    """Random orthonormal columns [draw, d_model, n], uniform up to signs."""
    drawn = torch.randn(draws, d_model, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    signs = torch.randn(draws, 1, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1)).sign()
    return torch.linalg.qr(drawn).Q * signs


def _random_scores(middle: torch.Tensor, spectra: torch.Tensor) -> torch.Tensor:
    """Eigenvalue scores [draw, layer, head] of `middle` read and written along random directions with given strengths."""
    d_model, n = len(middle), spectra.shape[-1]
    left, right = _directions(d_model, n, seed=0), _directions(d_model, n, seed=2)
    cores = right.mT @ middle @ left  # [draw, n, n]
    return torch.stack([eigenvalue_score(spectra[..., None] * core) for core in cores])


def composition_scores(weights: Weights) -> pd.DataFrame:
    """Q-, K- and V-composition of every pair of an earlier and a later head, columns COLUMNS; 0 to 1.

    q_composition: ||W_OV W_QK|| / (||W_OV|| ||W_QK||), Frobenius norms; k_composition with W_QK transposed;
    v_composition with the later head's W_OV. `sd` is over random draws, so (value - chance) / sd is a z-score.
    """
    n_layers, n_heads, d_model, d_head = weights.w_q.shape
    q, k, v, o = (_triangle(w) for w in (weights.w_q, weights.w_k, weights.w_v, weights.w_o.mT))
    ov = torch.linalg.svdvals(v @ o.mT)
    random = _directions(d_model, d_head)[:, :d_head].square()
    rows: list[pd.DataFrame] = []
    for later in range(1, n_layers):
        qk = torch.stack([torch.linalg.svdvals(q[later] @ r @ k[later].mT) for r in weights.rotations])
        for earlier in range(later):
            into = {  # [offset, earlier head, later head]: what the later head reads of the earlier one's output
                "q": _norms(v, weights, earlier, weights.w_q[later], [r @ k[later].mT for r in weights.rotations]),
                "k": _norms(v, weights, earlier, weights.w_k[later], [r.mT @ q[later].mT for r in weights.rotations]),
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
    squares = torch.einsum("ai,nij,obj->noab", first**2, random, second**2)
    drawn = squares.sqrt() / sizes.clamp(min=1e-300)
    rows = []
    for a in range(values.shape[1]):
        for b in range(values.shape[2]):
            for at, score in _offsets(values[:, a, b]):
                chance = drawn[:, 0, a, b] if at == "offset 0" else drawn[:, :, a, b].mean(1)
                rows.append((probe, earlier, a, later, b, at, score, float(chance.mean()), float(chance.std()), DRAWS))
    return pd.DataFrame(rows, columns=COLUMNS)
