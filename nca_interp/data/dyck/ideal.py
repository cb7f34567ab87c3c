"""What the best predictor of a Dyck row pays: the generator's own probabilities, which hide nothing that the row does not say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from nca_interp.data.specs import DyckSpec


def dyck_nats(spec: DyckSpec, rows: npt.NDArray[Any], n_tokens: int | None = None) -> npt.NDArray[np.float64]:
    """Nats [row, token] that a reader of the row pays who knows the generator and where the row ends (at `n_tokens`; null: at
    the end of `rows` [row, token], which are legal strings of `spec`): no predictor pays less on average.

    A bracket opens with probability p_open where it may open and may close, each type alike; of the types that are open one closes, the
    innermost (nested) or each alike (shuffle).
    """
    tokens = np.ascontiguousarray(rows, np.int64)
    whole = tokens.shape[1] if n_tokens is None else n_tokens
    end = whole - whole % 2 if spec.ending == "balanced" else whole + spec.max_depth
    nats = np.empty(tokens.shape)
    _pay(tokens, spec.k, spec.max_depth, spec.p_open, spec.variant == "shuffle", end, nats)
    return nats


@njit(nogil=True, cache=True)
def _pay(tokens: Any, k: int, max_depth: int, p_open: float, shuffle: bool, end: int, nats: Any) -> None:
    counts = np.zeros(k, np.int64)  # open brackets of each type
    for row in range(len(tokens)):
        counts[:] = 0
        depth, kinds = 0, 0
        for i in range(tokens.shape[1]):
            token = tokens[row, i]
            may_open = depth < max_depth and depth < end - i
            opens = 1.0 if depth == 0 else (p_open if may_open else 0.0)
            if token < k:
                nats[row, i] = math.log(k / opens)
                counts[token] += 1
                kinds += counts[token] == 1
                depth += 1
            else:
                nats[row, i] = math.log((kinds if shuffle else 1) / (1.0 - opens))
                counts[token - k] -= 1
                kinds -= counts[token - k] == 0
                depth -= 1
