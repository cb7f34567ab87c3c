"""What is special between two heads: their composition against that of each with all its other partners.

In a trained model all heads write and read in the few directions that the residual stream uses, so most pairs compose more than
random directions would. Here a pair is expected to have the product of a strength of its writer and one of its reader (medians
over their partners, Tukey's median polish of the logarithms); z is what it has more, in robust standard deviations of all pairs.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch

STRONGEST = 1000
"""Pairs that are given of each kind of composition."""
ROUNDS = 10
COLUMNS = ["probe", "from_layer", "from_head", "layer", "head", "at", "value", "chance", "sd", "n"]


def expected(values: np.ndarray) -> np.ndarray:
    """Product of a strength of the row and one of the column [writer, reader]; NaN (no pair) is left out."""
    with np.errstate(divide="ignore"):
        left = np.log(np.where(values > 0, values, np.nan))
    fit = np.zeros_like(left)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the last layer's heads write to none
        for _ in range(ROUNDS):
            for axis in (1, 0):
                middle = np.nan_to_num(np.nanmedian(left - fit, axis=axis, keepdims=True))
                fit = fit + middle
    return np.exp(fit)


def spread(values: np.ndarray, chance: np.ndarray) -> float:
    """Robust standard deviation of values / chance."""
    ratios = (values / chance)[np.isfinite(values)]
    return float(1.4826 * np.median(np.abs(ratios - np.median(ratios))))


def strongest(pairs: dict[str, torch.Tensor], offsets: int, n_heads: int) -> pd.DataFrame:
    """Rows (COLUMNS) of the STRONGEST pairs by z of each kind; `pairs`: by kind, compositions at offset 0 and averaged over
    `offsets` [2, writer, reader], NaN where there is no pair. `n` counts the pairs."""
    parts = []
    for kind, both in pairs.items():
        ways = ["offset 0"] if kind == "v" or offsets == 1 else ["offset 0", f"mean of {offsets} offsets"]
        for at, found in zip(ways, both.numpy(), strict=False):
            chance = expected(found)
            sd = spread(found, chance) * chance
            z = np.where(np.isfinite(found), (found - chance) / np.maximum(sd, 1e-300), -np.inf)
            order = np.argsort(-z, axis=None, kind="stable")[: min(STRONGEST, int(np.isfinite(found).sum()))]
            writer, reader = np.unravel_index(order, found.shape)
            parts.append(pd.DataFrame({
                "probe": f"{kind}_composition", "from_layer": writer // n_heads, "from_head": writer % n_heads,
                "layer": reader // n_heads, "head": reader % n_heads, "at": at, "value": found[writer, reader],
                "chance": chance[writer, reader], "sd": sd[writer, reader], "n": int(np.isfinite(found).sum()),
            }))  # fmt: skip
    return pd.concat(parts, ignore_index=True)[COLUMNS]
