"""Arms of a study in one line of a recipe: a regime's automata at other complexities, alphabets and steps between frames (docs/sweep.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product

from nca_interp.base import UserError
from nca_interp.config import Regime, suggest
from nca_interp.data.specs import RULE_MEASURES, NcaSpec

Range = tuple[float, float]
NAME_LENGTH = 40
"""Characters of a regime's name at most."""


def band_of(spec: NcaSpec, share: Range) -> Range:
    """The gzip band that is this share of the reach of the filter's ratio, from a constant (0) to independent uniform tokens (1), of the
    specification's alphabet and serialisation; from 0 and to 1 it is open, since single rules lie a little beyond both ends."""
    from nca_interp.data.complexity.gzip_score import gzip_floor_ceiling
    from nca_interp.data.nca.rules import score_dtype

    reach = gzip_floor_ceiling(spec.score_frames * spec.patches_per_frame, spec.vocab_size - 2, score_dtype(spec))
    low, high = (round(reach.floor + s * (reach.ceiling - reach.floor), 2) for s in share)
    return (0.0 if share[0] == 0 else low), (round(reach.ceiling + 0.1, 2) if share[1] == 1 else high)


def sweep_arms(
    regime: Regime, *, levels: Mapping[str, Range], n_states: Iterable[int] | None = None, dt: Iterable[int] | None = None,
    crossed: tuple[str, Mapping[str, Range]] | None = None, runs: dict[str, int] | None = None,
) -> tuple[Regime, ...]:  # fmt: skip
    """Every combination of levels of complexity, alphabets and steps between frames, as arms of role "complexity" named
    `<regime>-<n>-<level>[-dt<d>][-<key>]`; one that is the regime's own source is left out, so that none is trained twice.

    `levels`: name -> share of the gzip reach of each alphabet (0 constant, 1 random; `band_of`). `n_states`, `dt`: default the
    regime's own. `crossed`: a further measure of rules (docs/measures.md) and its ranges by name, each combined with each level: crossing
    takes a level in which rules of all ranges occur. `runs`: domain -> number of seeds; null: those of `regime`. UserError for a level
    that is no share and an unknown measure; a band that no rule reaches is found when the study begins, before anything is trained.
    """
    if not isinstance(regime.source, NcaSpec):
        raise UserError(f"sweep_arms: regime {regime.name!r} has no automata; legal: one with source=NcaSpec(...)")
    _check(levels, crossed)
    base, arms = regime.source, []
    measure, ranges = crossed or ("", {"": (0.0, 0.0)})
    sizes = tuple(n_states if n_states is not None else (base.n_states,))
    steps = tuple(dt if dt is not None else (base.dt,))
    for n, (level, share), d, (key, span) in product(sizes, levels.items(), steps, ranges.items()):
        plain = base.model_copy(update={"n_states": n, "dt": d})
        where = {**base.where, measure: span} if key else base.where
        spec = NcaSpec.model_validate({**plain.model_dump(), "band": band_of(plain, share), "where": where})
        if spec == base:
            continue
        name = "-".join([regime.name, str(n), level, *([f"dt{d}"] if d != base.dt else []), *([key] if key else [])])
        if len(name) > NAME_LENGTH:
            raise UserError(
                f"sweep_arms: {name!r} has {len(name)} characters, at most {NAME_LENGTH}; use shorter names"
            )
        label = f"{regime.label}, {n} states, {level}{f', dT {d}' if len(steps) > 1 else ''}{f', {key}' if key else ''}"
        arms.append(
            Regime(
                name=name, label=label, source=spec, role="complexity", checkpoints="ends", ft=False, ppt=regime.ppt, swap=regime.swap,
                runs=regime.runs if runs is None else runs,
            )
        )  # fmt: skip
    return tuple(arms)


def _check(levels: Mapping[str, Range], crossed: tuple[str, Mapping[str, Range]] | None) -> None:
    for level, (low, high) in levels.items():
        if not 0 <= low < high <= 1:
            raise UserError(
                f"sweep_arms: levels.{level}: {(low, high)}; legal: shares of the reach, 0 <= low < high <= 1"
            )
    if crossed is not None and crossed[0] not in RULE_MEASURES:
        raise UserError(f"sweep_arms: crossed: unknown measure {crossed[0]!r}{suggest(crossed[0], RULE_MEASURES)}")
