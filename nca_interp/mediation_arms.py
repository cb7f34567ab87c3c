"""Arms of a study in one line of a recipe: what the heads of a rule mediate, and what is left without the previous token."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from nca_interp.config import Regime
from nca_interp.graft import Graft, HeadFile
from nca_interp.head_rule import HeadRule


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
