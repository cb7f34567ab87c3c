"""What training did to each weight matrix: size, spread of its singular values, distance and direction from the start.

All quantities are scale-aware on purpose: pre-pre-training changes the size of weights, and a gain that weights of the
same size without their structure would bring too is no transfer of structure (arXiv 2606.17945).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from nca_interp.analysis.causes.folded import Heads, folding
from nca_interp.analysis.spectra import eigvalsh
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.model.roles import RoleOf, named_role

COLUMNS = ["tensor", "kind", "layer", "norm", "std", "displacement", "effective_rank", "participation", "rank"]
UPDATES = ["tensor", "kind", "layer", "cosine", "norm_a", "norm_b"]
HEADS = ["layer", "head", "ov_norm", "qk_norm"]
Tensors = Mapping[str, torch.Tensor]


class CheckpointTensors(Tensors):
    """Weights of a checkpoint directory by name, each read from disk when it is asked for: no model need fit into memory."""

    def __init__(self, directory: Path) -> None:
        from safetensors import safe_open

        self._files: dict[str, Path] = {}
        for path in sorted(directory.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                self._files |= dict.fromkeys(file.keys(), path)

    def __getitem__(self, name: str) -> torch.Tensor:
        from safetensors import safe_open

        with safe_open(self._files[name], "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class Spectrum(NamedTuple):
    """How many directions a matrix uses, by its singular values s (1 to `rank`; both are 1 for a matrix of rank one)."""

    effective_rank: float
    """exp of the entropy of s / sum(s) (Roy and Vetterli 2007)."""
    participation: float
    """(sum s^2)^2 / sum s^4, the participation ratio of the variance."""
    rank: int
    """The most it could be: the smaller side of the matrix."""


def spectrum(matrix: torch.Tensor) -> Spectrum:
    """Spectrum of a matrix [rows, columns], or of centred features; from the smaller Gram matrix, in float64.

    A matrix of zeros has no direction: both measures are 0. NaN where the spectrum could not be computed.
    """
    wide = matrix.detach().double()
    gram = wide @ wide.T if wide.shape[0] <= wide.shape[1] else wide.T @ wide
    squares = eigvalsh(gram).clamp(min=0.0)
    if not bool(squares.isfinite().all()):
        return Spectrum(math.nan, math.nan, min(wide.shape))
    # what rounding leaves of zero eigenvalues would count as directions
    squares = squares[squares > squares.max() * len(squares) * torch.finfo(torch.float64).eps]
    if not len(squares):
        return Spectrum(0.0, 0.0, min(wide.shape))
    share = squares.sqrt() / squares.sqrt().sum()
    effective = float(torch.exp(-(share * share.log()).sum()))
    return Spectrum(effective, float(squares.sum() ** 2 / (squares**2).sum()), min(wide.shape))


def weight_table(weights: Tensors, initial: Tensors | None = None, role: RoleOf = named_role) -> pd.DataFrame:
    """One row a tensor: Frobenius norm, standard deviation, spectrum (matrices only), and, where `initial` holds a tensor of
    the same name and shape, displacement = |W - W0| / |W0| (0: untouched; 1.41: as far as an unrelated draw of the same size).
    """
    rows = []
    for name, value in weights.items():
        wide = value.detach().double()
        start = initial.get(name) if initial is not None else None
        moved = None
        if start is not None and start.shape == value.shape:
            moved = float((wide - start.detach().double()).norm() / start.detach().double().norm().clamp(min=1e-30))
        shape = spectrum(value) if value.ndim == 2 else Spectrum(float("nan"), float("nan"), 0)
        std = float(wide.std()) if wide.numel() > 1 else float("nan")
        rows.append([name, *role(name), float(wide.norm()), std, moved, *shape])
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"layer": "Int64", "displacement": float})


def head_norms(weights: Tensors, n_heads: int) -> pd.DataFrame:
    """One row a head of a Llama: Frobenius norms of W_V W_O (what it moves) and of W_Q W_K^T at relative position 0 (how
    sharply it chooses), the gain of the norm before it folded in. Heads that share keys or values have copies of them.
    """
    rows: list[tuple[int, int, float, float]] = []
    layers = sorted({layer for name in weights if (layer := named_role(name).layer) is not None})
    for layer in layers:
        gain = weights[f"model.layers.{layer}.input_layernorm.weight"].double()
        q, k, v, o = (
            weights[f"model.layers.{layer}.self_attn.{part}_proj.weight"].double() for part in ("q", "k", "v", "o")
        )
        q, k, v = ((w * gain).unflatten(0, (-1, len(q) // n_heads)) for w in (q, k, v))
        k, v = (w.repeat_interleave(n_heads // len(w), 0) for w in (k, v))
        o = o.unflatten(1, (n_heads, -1)).permute(1, 2, 0)  # [head, d_head, d_model]
        for head, norms in enumerate(zip(_product_norms(v, o), _product_norms(q, k), strict=True)):
            rows.append((layer, head, *norms))
    return pd.DataFrame(rows, columns=HEADS)


def model_head_norms(model: Any) -> pd.DataFrame:
    """`head_norms` of any model whose heads can be read off its weights, by what its own modules answer to unit vectors
    (`causes/folded.py`), in the scale of a norm that divides by the root mean square. `qk_norm` is NaN where only queries and
    keys cannot be read. NotApplicable, with the reason, where what heads move cannot."""
    try:
        return pd.DataFrame(_folded_norms(model, qk=True), columns=HEADS)
    except NotApplicable:
        return pd.DataFrame(_folded_norms(model, qk=False), columns=HEADS)


def _folded_norms(model: Any, qk: bool) -> list[tuple[int, int, float, float]]:
    rows = []
    with folding(model, qk) as parts:
        for layer, heads in enumerate(parts.layers()):
            for head, (ov, both) in enumerate(zip(*_norms_of(heads), strict=True)):
                rows.append((layer, head, ov, both if qk else math.nan))
    return rows


def _norms_of(heads: Heads) -> tuple[list[float], list[float]]:
    root = heads.w_v.shape[1] ** 0.5  # what a norm makes of a unit vector
    v, q, k = (w.mT / root for w in (heads.w_v, heads.w_q, heads.w_k))
    return _product_norms(v, heads.w_o), _product_norms(q, k)


def _product_norms(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """Frobenius norm of a^T b of each head [head, d_head, d_model], without ever making it."""
    squares = ((a @ a.mT) * (b @ b.mT)).sum((1, 2))
    return [float(x) for x in squares.clamp(min=0).sqrt()]


def update_cosines(
    a: Tensors, a_start: Tensors, b: Tensors, b_start: Tensors, role: RoleOf = named_role
) -> pd.DataFrame:
    """One row a tensor that all four hold in one shape: cosine between the updates a - a_start and b - b_start, and their norms.

    -1 to 1; 0 for unrelated updates (standard deviation 1 / sqrt(elements)); NaN where one of the two did not move.
    """
    rows = []
    for name, value in a.items():
        others = [t.get(name) for t in (a_start, b, b_start)]
        if any(t is None or t.shape != value.shape for t in others):
            continue
        start, other, other_start = (t.detach().double() for t in others if t is not None)
        left, right = (value.detach().double() - start).flatten(), (other - other_start).flatten()
        sizes = float(left.norm()), float(right.norm())
        cosine = float(left @ right) / (sizes[0] * sizes[1]) if min(sizes) > 0 else float("nan")
        rows.append([name, *role(name), cosine, *sizes])
    return pd.DataFrame(rows, columns=UPDATES).astype({"layer": "Int64"})
