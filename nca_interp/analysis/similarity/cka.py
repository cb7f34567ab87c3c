"""Do two networks compute the same thing? Debiased linear CKA of their residual streams, layer by layer.

The number means little alone: two seeds of one regime give the ceiling, and a network at random weights is rarely 0.
The first token of every sequence is left out, since its massive activations would dominate (arXiv 2210.16156).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

BATCH = 8
"""Sequences a forward pass."""
POSITIONS = 2048
"""Token positions compared; the debiased estimator is unbiased at any number above the width, only noisier below."""


class Moments(NamedTuple):
    """What the debiased HSIC needs of one centred feature matrix [positions, width]."""

    features: torch.Tensor
    squares: torch.Tensor
    """Squared length of each row: the diagonal of its Gram matrix, which the estimator leaves out."""
    rows: torch.Tensor
    """Row sums of that Gram matrix without its diagonal."""
    itself: float
    """Debiased HSIC of the features with themselves."""


def moments(features: torch.Tensor) -> Moments:
    """Prepare features [positions, width], at least 4 positions, for `cka`; float64, on the device of the features."""
    if features.ndim != 2 or len(features) < 4:
        raise ValueError(f"features: shape {list(features.shape)}; legal: [positions, width] with at least 4 positions")
    x = features.detach().double()
    x = x - x.mean(0)
    squares = (x * x).sum(1)
    part = Moments(x, squares, x @ x.sum(0) - squares, 0.0)
    return part._replace(itself=_hsic(part, part))


def _hsic(a: Moments, b: Moments) -> float:
    """Unbiased HSIC (Song et al. 2012, eq. 5) of two linear kernels, from features alone: never a positions^2 matrix."""
    n = len(a.features)
    trace = (a.features.T @ b.features).square().sum() - a.squares @ b.squares
    total = a.rows.sum() * b.rows.sum() / ((n - 1) * (n - 2))
    cross = a.rows @ b.rows * (2 / (n - 2))
    return float((trace + total - cross) / (n * (n - 3)))


def cka(a: torch.Tensor | Moments, b: torch.Tensor | Moments) -> float:
    """Debiased linear CKA of two feature matrices over the same positions (arXiv 1905.00414; debiased: 2010.15327).

    1 for features equal up to rotation, scale and shift; about 0 for independent ones, slightly negative by chance. NaN
    where one of them does not vary. Raises ValueError for different numbers of positions.
    """
    a = a if isinstance(a, Moments) else moments(a)
    b = b if isinstance(b, Moments) else moments(b)
    if len(a.features) != len(b.features):
        raise ValueError(f"features: {len(a.features)} and {len(b.features)} positions; legal: the same positions")
    scale = a.itself * b.itself
    return _hsic(a, b) / scale**0.5 if a.itself > 0 and b.itself > 0 else float("nan")


def cka_matrix(a: Sequence[Moments], b: Sequence[Moments]) -> np.ndarray:
    """CKA of every layer of one network with every layer of another [layers of a, layers of b]."""
    return np.array([[cka(x, y) for y in b] for x in a])


@torch.inference_mode()
def residual_streams(model: Any, rows: np.ndarray, positions: int = POSITIONS) -> list[torch.Tensor]:
    """resid_pre of every block and the final resid_post, each [positions, d_model], on rows [sequences, tokens].

    The first token of every row is left out; fewer positions come back where the rows hold fewer.
    """
    streams: list[list[torch.Tensor]] = []

    def keep(layer: int, hidden: torch.Tensor) -> None:
        streams.extend([] for _ in range(layer + 1 - len(streams)))
        streams[layer].append(hidden[:, 1:].float().reshape(-1, hidden.shape[-1]))

    with watched_streams(model, keep):
        wanted = -(-positions // (rows.shape[1] - 1))
        for start in range(0, min(wanted, len(rows)), BATCH):
            part = torch.from_numpy(np.asarray(rows[start : min(start + BATCH, wanted)], dtype=np.int64))
            model.base_model(input_ids=part.to(model.device), use_cache=False)
    return [torch.cat(parts)[:positions] for parts in streams]


@contextmanager
def watched_streams(model: Any, see: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Call `see(layer, hidden [batch, position, d_model])` with resid_pre of each block and, as one layer more, the final
    resid_post, in every forward pass of the body. Hooks on the blocks, so the last one is not normalised (as
    `output_hidden_states` would have it).
    """
    blocks = blocks_of(model)

    def before(index: int) -> Any:
        return lambda module, args, kwargs: see(index, args[0] if args else kwargs["hidden_states"])

    def after(module: Any, args: Any, out: Any) -> None:
        see(len(blocks), out[0] if isinstance(out, tuple) else out)

    handles = [b.register_forward_pre_hook(before(i), with_kwargs=True) for i, b in enumerate(blocks)]
    handles.append(blocks[-1].register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(model: Any) -> Any:
    """The list of transformer blocks of a Hugging Face model: its longest ModuleList with one block a layer."""
    wanted = int(model.config.get_text_config().num_hidden_layers)
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted:
            return module
    raise ValueError(f"{type(model).__name__}: no list of {wanted} blocks in it")


def open_streams(directory: Path, rows: np.ndarray, positions: int = POSITIONS) -> list[Moments]:
    """`residual_streams` of a checkpoint directory, ready for `cka_matrix`, on the GPU where there is one."""
    from nca_interp.machine import device_type
    from nca_interp.model.checkpoint import load_model

    model: Any = load_model(directory)
    return [moments(stream) for stream in residual_streams(model.to(device_type()), rows, positions)]
