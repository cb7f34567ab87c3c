"""Arms of a study in one line of a recipe: a regime crossed with swap policies, and scratch at several embedding scales."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from nca_interp.config import Regime
from nca_interp.graft import Graft, HeadFile
from nca_interp.head_rule import HeadRule
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


def mediation_arms(
    regime: Regime, rule: HeadRule, n_random: int = 4, runs: dict[str, int] | None = None,
    ways: Iterable[Literal["without", "only"]] = ("without", "only"), name: str | None = None,
) -> tuple[Regime, ...]:  # fmt: skip
    """Arms that tell what the heads of a rule mediate of what `regime` gains (docs/mediation.md), all of one pre-pre-training.

    `without`: those heads are re-initialised at the swap, the rest is carried over; `only`: they alone are carried over. Each way
    also with `n_random` random sets of the same layers. `runs`: domain -> number of seeds; null: those of `regime`.
    `name`: of the heads in the arms' names; null: that of the probe.
    """
    kind = name or rule.probe.replace("_", "-").replace("+", "-")
    rule = rule.model_copy(update={"sets": n_random})
    modes = {"without": "reinit", "only": "keep"}
    arms = []
    for way in ways:
        for number in (None, *range(1, n_random + 1)):
            one = HeadRule.model_validate({**rule.model_dump(), "random": number})
            of = "" if number is None else f"-r{number}"
            arms.append(
                regime.model_copy(
                    update={
                        "name": f"{regime.name}-{way}-{kind}{of}",
                        "label": f"{regime.label}, {way} the {one.words()}",
                        "graft": Graft.model_validate({"mode": modes[way], "heads": HeadFile.of(one).model_dump()}),
                        "role": "mediation",
                        "checkpoints": "ends",
                        "runs": regime.runs if runs is None else runs,
                        "ft": False,
                    }
                )
            )
    return tuple(arms)


def blinded_arms(
    regime: Regime,
    scratch: Regime,
    stages: Iterable[Literal["ppt", "pt"]] = ("pt",),
    runs: dict[str, int] | None = None,
) -> tuple[Regime, ...]:
    """`regime` and `scratch` without attention to the previous token, which induction heads need, in the `stages` that each has:
    does the gain of one over the other vanish (docs/mediation.md)? Of the synthetic stage alone scratch needs no arm of its own."""
    asked = tuple(stages)
    name = "-".join(asked)
    arms = []
    for one in (regime, scratch):
        own = tuple(stage for stage in asked if stage == "pt" or one.source is not None)
        if own:
            arms.append(
                one.model_copy(
                    update={
                        "name": f"{one.name}-blind-{name}",
                        "label": f"{one.label}, no previous token in {' and '.join(own)}",
                        "no_previous_token": own,
                        "role": "mediation",
                        "checkpoints": "ends",
                        "runs": one.runs if runs is None else runs,
                        "ft": False,
                    }
                )
            )
    return tuple(arms)
