"""What a study claims to test: sentences that a verdict can be given of, fixed in the recipe before the first run.

A claim names the comparison that decides it. Without any the claims are those of arXiv 2603.10055 that the arms of the study can speak
to, and what its swap arms are there for (analysis/verdicts/standard_claims.py). The verdicts: analysis/verdicts/claims.py.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from nca_interp.base import Frozen

Kind = Literal[
    "lower_loss", "faster", "depends_on_swap", "part_carries", "complexity_matches", "heads_earlier", "heads_load_bearing",
    "reasons_better",
]  # fmt: skip


class Claim(Frozen):
    """A sentence, and the comparison that decides it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)
    """Anchor of the claim in the report."""
    says: str = Field(min_length=1, max_length=200)
    """The claim as one sentence."""
    source: str = ""
    """Who claims it, with the section."""
    kind: Kind
    """lower_loss: the treated regime's final loss is lower; faster: it needs fewer pre-training tokens for the same loss;
    depends_on_swap: its effect is another one where both have the `other` arms' embeddings; part_carries: without what the arm
    `treated` re-initialises more is lost than without what `control` does; complexity_matches: the gain falls with the distance
    in complexity; heads_earlier: heads of `probe` emerge after fewer tokens; heads_load_bearing: losing the top heads of `probe`
    costs more than losing others; reasons_better: its accuracy after fine-tuning is higher."""
    treated: str = ""
    """Regime that the claim is about."""
    control: str = ""
    """Regime that it is compared with."""
    other: tuple[str, str] | None = None
    """Of depends_on_swap: the same pair under the other policy."""
    probe: str = "induction"
    """Of claims on heads."""


def check_claims(claims: Iterable[Claim], regimes: Iterable[str]) -> None:
    """ValueError where a claim names a regime that is not there, lacks one that its kind needs, or has another's name."""
    legal, seen = list(regimes), set[str]()
    for claim in claims:
        where = f"claims.{claim.name}"
        if claim.name in seen:
            raise ValueError(f"{where}: two claims have this name")
        seen.add(claim.name)
        needed = {"treated": claim.treated}
        if claim.kind not in ("complexity_matches", "heads_load_bearing"):
            needed["control"] = claim.control
        if claim.kind == "depends_on_swap":
            if claim.other is None:
                raise ValueError(f"{where}.other: null; legal: two regimes, the same pair under the other policy")
            needed |= {"other": claim.other[0], "other ": claim.other[1]}
        for field, name in needed.items():
            if name not in legal:
                near = difflib.get_close_matches(name, legal, n=1, cutoff=0.6)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"{where}.{field.strip()}: unknown regime {name!r}{hint} (legal: {', '.join(legal)})")
