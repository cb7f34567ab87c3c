"""Arms of a study in one line of a recipe: a regime crossed with swap policies, and scratch at several embedding scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nca_interp.config import Regime
from nca_interp.swap_policy import SwapPolicy


def swap_arms(
    regime: Regime, policies: Mapping[str, SwapPolicy], runs: dict[str, int] | None = None
) -> tuple[Regime, ...]:
    """`regime` under each policy, named `<regime>-<key>` (docs/swap.md). All share its pre-pre-training run.

    `runs`: domain -> number of seeds; null: those of `regime`. Arms of scratch are controls, each compared with the regime
    that the study is about; arms of a source are compared with scratch under the same policy and with the best scratch.
    """
    return tuple(
        regime.model_copy(
            update={
                "name": f"{regime.name}-{key}",
                "label": f"{regime.label}, {key}",
                "swap": policy,
                "role": "control" if regime.source is None else "swap",
                "runs": regime.runs if runs is None else runs,
                "ft": False,
            }
        )
        for key, policy in policies.items()
    )


def stds(values: Iterable[float]) -> dict[str, SwapPolicy]:
    """Normal draws of these standard deviations by the name that an arm gets: std-1, std-0-02. The unembedding has the same where
    the model has no `unembed_std` of its own."""
    return {f"std-{value:g}".replace(".", "-"): SwapPolicy(embed_std=value) for value in values}


def scratch_arms(values: Iterable[float], runs: dict[str, int] | None = None) -> tuple[Regime, ...]:
    """`scratch` as the model says, and scratch with embeddings of each of these standard deviations."""
    scratch = Regime(name="scratch", label="scratch", runs=runs)
    return (scratch, *swap_arms(scratch, stds(values)))


def published(d_model: int) -> SwapPolicy:
    """Fresh embeddings as the released code of arXiv 2603.10055 draws them: N(0, 1), and an unembedding of standard deviation
    1/sqrt(3 d_model), that of torch's uniform default. (With 1 for both, logits begin sqrt(d_model) wide.)"""
    return SwapPolicy(embed_std=1.0, unembed_std=round((3 * d_model) ** -0.5, 6))
