"""Arms of a study in one line of a recipe: a regime crossed with swap policies, parts of it re-initialised or alone carried over,
other budgets of text and scratch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from nca_interp.base import UserError
from nca_interp.config import MODULES, Regime, StageConfig
from nca_interp.graft import COVERS, Graft, Head, HeadFile
from nca_interp.mediation_arms import blinded_arms as blinded_arms
from nca_interp.mediation_arms import mediation_arms as mediation_arms
from nca_interp.swap_policy import TODAY, SwapPolicy

BODY: tuple[str, ...] = MODULES
Layers = str | int
Stand = Literal["permuted", "scaled", "directions", "spectrum", "norms"]


CHOSEN = SwapPolicy(embed="match_rms", body_scale="shrink_to_initial")
"""What recipes do at the swap: of the policies measured in docs/swap.md (the default), the one under which what NCA taught costs language
least."""
CHOSEN_SCRATCH = SwapPolicy(embed_std=0.07)
"""Embeddings of scratch in recipes: of the scales measured there, scratch's own best."""
PLAIN = SwapPolicy()
"""As the model says, the body as it is."""


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


def necessity_arms(
    regime: Regime, parts: Iterable[str] = BODY, layers: Iterable[Layers] = ("all",), runs: dict[str, int] | None = None,
    to: Literal["initial", "fresh"] = "initial",
) -> tuple[Regime, ...]:  # fmt: skip
    """`regime` with each of `parts` re-initialised at the swap, in each of `layers`; the rest is carried over (docs/transfer.md).

    A part is one of embed, attn, mlp, norm, qk, vo, q, k, v, o, or several joined by +. `layers`: all, lower, upper, a number, or
    text such as 0-2,5. `to`: this seed's own initial weights, or a fresh draw. Each is compared with full transfer, which is `regime`.
    """
    return _grafted(regime, "reinit", parts, layers, runs, to)


def sufficiency_arms(
    regime: Regime, parts: Iterable[str] = BODY, layers: Iterable[Layers] = ("all",), runs: dict[str, int] | None = None,
    to: Literal["initial", "fresh"] = "initial",
) -> tuple[Regime, ...]:  # fmt: skip
    """`regime` with each of `parts`, in each of `layers`, alone carried over; see `necessity_arms`. Each is compared with scratch."""
    return _grafted(regime, "keep", parts, layers, runs, to)


def shapley_arms(
    regime: Regime, runs: dict[str, int] | None = None, to: Literal["initial", "fresh"] = "initial"
) -> tuple[Regime, ...]:
    """The sets of {attention, MLP, norms} that are carried over, but for all of them, which is `regime`: three single ones, three
    pairs (a pair is one part re-initialised), and, where scratch is not bit for bit the same, none of them."""
    pairs, single = necessity_arms(regime, BODY, runs=runs, to=to), sufficiency_arms(regime, BODY, runs=runs, to=to)
    if to == "initial" and regime.swap == TODAY:
        return (*pairs, *single)
    return (*pairs, *single, *necessity_arms(regime, ("+".join(BODY),), runs=runs, to=to))


def layer_arms(
    regime: Regime, n_layers: int, mode: Literal["reinit", "keep"] = "reinit", parts: Iterable[str] = ("+".join(BODY),),
    runs: dict[str, int] | None = None,
) -> tuple[Regime, ...]:  # fmt: skip
    """Each single layer of `n_layers`: its `parts` re-initialised, or alone carried over."""
    return _grafted(regime, mode, parts, range(n_layers), runs, "initial")


def control_arms(
    regime: Regime, kinds: Iterable[Stand] = ("permuted", "scaled", "directions", "spectrum", "norms"),
    part: str = "+".join(BODY), donors: Iterable[str] = (), runs: dict[str, int] | None = None,
) -> tuple[Regime, ...]:  # fmt: skip
    """What tells learned structure from scale: `part` of `regime` with something else in its place.

    permuted: each tensor's own entries permuted; scaled: initial weights at the learned norm; directions: learned weights at the
    initial norm; spectrum: the learned singular values with random vectors; norms: gains set back to 1, whatever `part` is (the arm of
    `necessity_arms` of that name, for gains begin at 1).
    `donors`: names of regimes of the study whose weights take the place of `part`, which then is not the whole body: that would be
    the donor itself. Each is compared with full transfer and with scratch.
    """
    names = tuple(part.split("+"))
    made = [
        necessity_arms(regime, ("norm",), runs=runs)[0] if kind == "norms"
        else _arm(regime, f"{kind}-{_slug(part)}", Graft.model_validate({"parts": names, "instead": kind}), runs)
        for kind in kinds
    ]  # fmt: skip
    donors = tuple(donors)
    if donors and {kind for name in names for kind in COVERS.get(name, ())} >= {k for b in BODY for k in COVERS[b]}:
        raise UserError(
            f"part: {part} is the whole body, and with a donor's that is the donor's own regime; legal: less of it"
        )
    gifts = (Graft.model_validate({"parts": names, "instead": "donor", "donor": donor}) for donor in donors)
    return (*made, *(_arm(regime, f"{_slug(part)}-of-{gift.donor}", gift, runs) for gift in gifts))


def head_arms(
    regime: Regime, name: str, heads: Iterable[Head] | HeadFile, random_sets: int = 0, mode: Literal["reinit", "keep"] = "reinit",
    runs: dict[str, int] | None = None,
) -> tuple[Regime, ...]:  # fmt: skip
    """A set of heads, called `name`, re-initialised or alone carried over, and beside it `random_sets` sets of as many other heads of
    the same layers."""
    chosen = heads if isinstance(heads, HeadFile) else tuple(heads)
    numbers = (None, *range(random_sets))
    verb = "no" if mode == "reinit" else "only"
    return tuple(
        _arm(regime, f"{verb}-{name}" + ("" if n is None else f"-random-{n}"), Graft(mode=mode, heads=chosen, matched=n), runs)
        for n in numbers
    )  # fmt: skip


def once(*arms: Regime) -> tuple[Regime, ...]:
    """Arms, each once by its name: families share some. UserError where two of one name are not the same."""
    found: dict[str, Regime] = {}
    for arm in arms:
        if found.setdefault(arm.name, arm) != arm:
            raise UserError(f"regimes: two arms are named {arm.name}, and they are not the same")
    return tuple(found.values())


def _grafted(
    regime: Regime, mode: Literal["reinit", "keep"], parts: Iterable[str], layers: Iterable[Layers],
    runs: dict[str, int] | None, to: Literal["initial", "fresh"],
) -> tuple[Regime, ...]:  # fmt: skip
    verb, end = ("no" if mode == "reinit" else "only"), ("" if to == "initial" else f"-{to}")
    return tuple(
        _arm(
            regime,
            f"{verb}-{_slug(part)}" + ("" if where == "all" else f"-{_slug(str(where))}") + end,
            Graft.model_validate({"mode": mode, "parts": part.split("+"), "layers": where, "instead": to}),
            runs,
        )
        for part in parts
        for where in layers
    )


def _arm(regime: Regime, name: str, graft: Graft, runs: dict[str, int] | None) -> Regime:
    return regime.model_copy(
        update={
            "name": f"{regime.name}-{name}",
            "label": f"{regime.label}: {graft.short()}",
            "graft": graft,
            "role": "transfer",
            "checkpoints": "ends",
            "runs": regime.runs if runs is None else runs,
            "ft": False,
        }
    )


def _slug(text: str) -> str:
    """A part or range of layers as it stands in a name: attn+mlp gives attn-mlp, 0-2,5 gives l0-2-5."""
    text = text.replace("+", "-").replace(",", "-")
    return f"l{text}" if text[:1].isdecimal() else text


def amounts(
    regime: Regime,
    ppt: StageConfig,
    factors: Iterable[float] = (1, 10),
    kept: bool = True,
    runs: dict[str, int] | None = None,
) -> tuple[Regime, ...]:
    """`regime` (natural text, say) with its pre-pre-training budget `ppt` times each factor, and with its embeddings drawn anew or
    (`kept`) carried over, where the vocabularies agree; controls, each compared with the regime that the study is about. What is
    `regime` itself is left out. A factor of 1 is token-matched with all that have `ppt`."""
    budget, found = regime.ppt or ppt, []
    for factor in factors:
        steps = max(1, round(factor * budget.steps))
        horizon = None if budget.horizon is None else max(steps, round(factor * budget.horizon))
        own = budget.model_copy(update={"steps": steps, "horizon": horizon})
        for keep in (False, True)[: 1 + kept]:
            if factor == 1 and not keep:
                continue
            name = (f"-x{factor:g}".replace(".", "-") if factor != 1 else "") + ("-kept" if keep else "")
            said = "token-matched" if factor == 1 else f"{factor:g} times the tokens"
            update = {
                "name": f"{regime.name}{name}",
                "label": f"{regime.label}, {said}, embeddings {'kept' if keep else 'drawn anew'}",
                "ppt": regime.ppt if factor == 1 else own,
                "swap": regime.swap.model_copy(update={"embed": "keep", "unembed": None, "embed_std": None, "unembed_std": None}) if keep else regime.swap,
                "role": "control", "runs": regime.runs if runs is None else runs, "ft": False,
            }  # fmt: skip
            found.append(regime.model_copy(update=update))
    return tuple(found)


def matched_scratch(
    regime: Regime,
    by: Iterable[Literal["tokens", "flops"]] = ("tokens",),
    runs: dict[str, int] | None = None,
    swap: SwapPolicy = TODAY,
) -> tuple[Regime, ...]:
    """Scratch with the pre-pre-training of `regime` added to its language budget: as many tokens, or as many FLOPs. A control. `swap`:
    how its embeddings are drawn."""
    return tuple(
        Regime(
            name=f"scratch-and-{how}",
            label=f"scratch, with the {'tokens' if how == 'tokens' else 'FLOPs'} of {regime.label} added to language "
            f"({'token' if how == 'tokens' else 'compute'}-matched over both stages)",
            adds=regime.name, adds_by=how, swap=swap, role="control", runs=runs, ft=False,
        )
        for how in by
    )  # fmt: skip


def tuned_scratch(
    factors: Iterable[float] = (0.5, 2.0), runs: dict[str, int] | None = None, swap: SwapPolicy = TODAY
) -> tuple[Regime, ...]:
    """Scratch with the peak learning rate of language times each factor: controls among which, with plain scratch, the best is chosen
    by the rule of docs/swap.md. The other regimes keep the rate of the study, so this favours scratch."""
    return tuple(
        Regime(
            name=f"scratch-lr-{factor:g}".replace(".", "-"), label=f"scratch, learning rate times {factor:g} (token-matched in language)",
            lr_factor=factor, swap=swap, role="control", runs=runs, ft=False,
        )
        for factor in factors
    )  # fmt: skip
