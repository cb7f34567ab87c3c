"""Eigenvalues and singular values of many matrices, where one that LAPACK cannot do costs only itself.

LAPACK's QR iterations stop without a result on some matrices (MKL's real `geev` on processors with AVX-512: products with many
zero rows), and torch then raises for the whole batch. Each such matrix goes through other libraries and algorithms; NaN where
none finds its values, and where an entry is not finite.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

Route = Callable[[np.ndarray], np.ndarray]


def eigvals(matrices: torch.Tensor) -> torch.Tensor:
    """Eigenvalues [..., n] of float64 [..., n, n], complex128, in no order."""
    return _values(matrices, torch.linalg.eigvals, (np.linalg.eigvals, _schur), torch.complex128)


def svdvals(matrices: torch.Tensor) -> torch.Tensor:
    """Singular values [..., min(n, m)] of float64 [..., n, m], descending."""
    return _values(matrices, torch.linalg.svdvals, (_gesdd, _gesvd), torch.float64)


def eigvalsh(matrices: torch.Tensor) -> torch.Tensor:
    """Eigenvalues [..., n] of symmetric float64 [..., n, n], ascending."""
    return _values(matrices, torch.linalg.eigvalsh, (np.linalg.eigvalsh, _ev), torch.float64)


def svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Thin singular value decomposition u, s, vt of a finite float64 matrix; LinAlgError only where two algorithms fail."""
    try:
        u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    except np.linalg.LinAlgError:
        from scipy.linalg import svd as slower

        u, s, vt = slower(matrix, full_matrices=False, lapack_driver="gesvd")
    return u, s, vt


def _values(
    matrices: torch.Tensor, whole: Callable[[torch.Tensor], torch.Tensor], others: tuple[Route, ...], dtype: torch.dtype
) -> torch.Tensor:
    """`whole` of all matrices; where that fails, of each alone by `whole` and `others`, the first that gives finite values."""
    if bool(torch.isfinite(matrices).all()):
        try:
            return whole(matrices)
        except torch.linalg.LinAlgError:
            pass
    n = min(matrices.shape[-2:])
    found = torch.full((*matrices.shape[:-2], n), torch.nan, dtype=dtype)
    routes: tuple[Route, ...] = (lambda one: whole(torch.from_numpy(one)).numpy(), *others)
    for at in np.ndindex(matrices.shape[:-2]):
        one = matrices[at]
        if bool(torch.isfinite(one).all()):
            found[at] = _first(one.cpu().numpy(), routes, n, dtype)
    return found.to(matrices.device)


def _first(one: np.ndarray, routes: tuple[Route, ...], n: int, dtype: torch.dtype) -> torch.Tensor:
    for route in routes:
        try:
            values = route(one)
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError):
            continue
        if np.isfinite(values).all():
            return torch.tensor(values, dtype=dtype)
    return torch.full((n,), torch.nan, dtype=dtype)


def _schur(matrix: np.ndarray) -> np.ndarray:
    from scipy.linalg import schur

    triangle: np.ndarray = schur(matrix, output="complex")[0]
    return np.diag(triangle)


def _gesdd(matrix: np.ndarray) -> np.ndarray:
    return np.linalg.svd(matrix, compute_uv=False)


def _gesvd(matrix: np.ndarray) -> np.ndarray:
    from scipy.linalg import svd

    values: np.ndarray = svd(matrix, compute_uv=False, lapack_driver="gesvd")
    return values


def _ev(matrix: np.ndarray) -> np.ndarray:
    from scipy.linalg import eigh

    values: np.ndarray = eigh(matrix, eigvals_only=True, driver="ev")
    return values
