"""Where does the synthetic stage help? A grid over five factors, with further seeds where the sign is uncertain (docs/phase.md)."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Literal, NamedTuple

from pydantic import Field, model_validator

from nca_interp.arms import published
from nca_interp.base import Frozen
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import NcaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS
from nca_interp.phase import Cell, Phase
from nca_interp.swap_policy import SwapPolicy

FACTORS = ("model", "swap", "states", "learning rate", "synthetic tokens")
BANDS = {2: (0.15, 1.0), 3: (0.25, 1.0), 4: (0.3, 1.0)}
"""Gzip ratios by alphabet: about the upper 40, 50 and 60 % of random rules of an 8x8 grid; the rest is dead or nearly so."""
Count = Annotated[int, Field(ge=1, le=10**12)]
Rate = Annotated[float, Field(gt=0, le=1)]


class Swap(NamedTuple):
    """A level of the swap factor: how the treated regime enters language, and the scratch arm it is compared with."""

    words: str
    published: bool
    """Whether embeddings are drawn as the released code draws them, N(0, 1); else N(0, 0.02^2)."""
    control: str
    """Scratch arm: small or published."""
    shrunk: bool = False
    """Whether the body is shrunk to its initial norms."""

    def policy(self, d_model: int) -> SwapPolicy:
        """For networks of this width."""
        drawn = published(d_model) if self.published else SwapPolicy(embed_std=SMALL)
        return drawn.model_copy(update={"body_scale": "shrink_to_initial"}) if self.shrunk else drawn


SMALL = 0.02
SWAPS = {
    "small": Swap("N(0, 0.02\u00b2), scratch alike", False, "small"),
    "published": Swap("N(0, 1), scratch alike", True, "published"),
    "crossed": Swap("N(0, 1), scratch N(0, 0.02\u00b2)", True, "small"),
    "shrunk": Swap("N(0, 0.02\u00b2), body shrunk", False, "small", shrunk=True),
}


class Grid(Frozen):
    """Levels of each factor, and what each run gets; `--set grid.FIELD=value`."""

    models: tuple[Literal["tiny", "mini"], ...] = ("tiny", "mini")
    """Networks: 3 layers of 64, 4 layers of 128; both with the context of `tiny`, so that only their size differs."""
    swaps: tuple[Literal["small", "published", "crossed", "shrunk"], ...] = ("small", "published", "crossed", "shrunk")
    """Fresh embeddings of both sides: small, N(0, 0.02^2); published, N(0, 1) with the unembedding of the released code; crossed, the
    treated as published against small scratch (no further runs); shrunk, small, and the body shrunk to its initial norms."""
    states: tuple[Literal[2, 3, 4], ...] = (2, 4)
    """Alphabets of the automata, each with its band."""
    lrs: tuple[Rate, ...] = (5e-4, 3e-3)
    """Peak learning rates of the synthetic stage."""
    synthetic_tokens: tuple[Count, ...] = (1_024_000, 4_096_000)
    """Budgets of the synthetic stage."""
    language_tokens: Count = 1_024_000
    """Budget of language."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] = 8
    """Rows a step, both stages."""
    first_seeds: Annotated[int, Field(ge=2, le=100)] = 3
    """Seeds that every cell gets."""
    last_seed: Annotated[int, Field(ge=2, le=100)] = 8
    """Seeds that a cell can get at most."""
    budget: Annotated[float, Field(gt=0, le=1e30)] = 1.8e15
    """FLOPs of training in all."""
    val_rows: Annotated[int, Field(ge=1, le=100_000)] = 128
    """Rows of validation."""

    @model_validator(mode="after")
    def _levels(self) -> Grid:
        for name in ("models", "swaps", "states", "lrs", "synthetic_tokens"):
            levels = getattr(self, name)
            if not levels or len(set(levels)) < len(levels):
                raise ValueError(f"{name}: {list(levels)}; legal: at least one level, each once")
        return self


def stage(grid: Grid, model: ModelConfig, tokens: int, lr: float) -> StageConfig:
    """A stage of so many tokens, rounded to whole steps, validated at its ends only."""
    steps = max(1, round(tokens / (grid.batch_size * model.n_ctx)))
    return StageConfig(
        steps=steps, batch_size=grid.batch_size, lr=lr, eval_every=steps, checkpoints="ends", checkpoint_every=max(500, steps // 4)
    )  # fmt: skip


def words(tokens: int) -> str:
    """4096000 as 4.1M."""
    return f"{tokens / 1e6:.2g}M" if tokens >= 100_000 else f"{tokens / 1e3:.3g}k"


def slug(value: float) -> str:
    """A number in a regime's name: 0.0005 as 0-0005."""
    return f"{value:g}".replace(".", "-").replace("+", "")


def scratch(model: ModelConfig, swap: str) -> Regime:
    """Language alone, with the embeddings of a swap."""
    return Regime(
        name=f"scratch-{swap}", label=f"scratch, {SWAPS[swap].words.split(',')[0]}", swap=SWAPS[swap].policy(model.d_model),
        role="regime" if swap == "small" else "control",
    )  # fmt: skip


def synthetic(grid: Grid, model: ModelConfig, swap: str, states: int, lr: float, tokens: int) -> Regime:
    """NCA of one setting, then language under one swap policy; `crossed` is the regime of `published`."""
    own = "published" if swap == "crossed" else swap
    return Regime(
        name=f"nca{states}-{own}-lr{slug(lr)}-{words(tokens).replace('.', '-').lower()}",
        label=f"NCA, {states} states, {own}",
        source=NcaSpec(grid=8, n_states=states, tau=1e-4, band=BANDS[states]),
        ppt=stage(grid, model, tokens, lr),
        swap=SWAPS[own].policy(model.d_model),
        role="swap",
    )


def study(grid: Grid, size: str) -> Study:
    """Everything of one network: cells of it share scratch and the synthetic stages."""
    model = PRESETS[size].model_copy(update={"n_ctx": PRESETS["tiny"].n_ctx})
    points = product(grid.swaps, grid.states, grid.lrs, grid.synthetic_tokens)
    arms = {regime.name: regime for regime in (synthetic(grid, model, *point) for point in points)}
    controls = [
        scratch(model, name) for name in ("small", "published") if name in {SWAPS[s].control for s in grid.swaps}
    ]
    text = TextSpec(source="site:prose-b", tokenizer=TokenizerSpec(vocab_size=512), max_bytes=4_000_000)
    return Study(
        name=size,
        title=f"Phase diagram, the cells of {size}",
        model=model,
        regimes=(*controls, *arms.values()),
        domains=(Domain(name="web", label="prose B (stand-in for web text)", source=text),),
        seeds=paired_seeds(grid.last_seed),
        ppt=stage(grid, model, grid.synthetic_tokens[0], grid.lrs[0]),
        pt=stage(grid, model, grid.language_tokens, 2e-3),
        val_rows=grid.val_rows,
        deviations=(
            "networks of 0.2M and 1M parameters, synthetic budgets of a few million tokens, docstrings as language",
        ),
    )


def cell(grid: Grid, of: Study, swap: str, states: int, lr: float, tokens: int) -> Cell:
    """One point."""
    regime = synthetic(grid, of.model, swap, states, lr, tokens)
    name = f"{of.name}.nca{states}.{swap}.lr{lr:g}.{words(tokens)}".lower()
    control = scratch(of.model, SWAPS[swap].control).name
    levels = (of.name, SWAPS[swap].words, f"{states} states", f"lr {lr:g}", words(tokens))
    return Cell(name=name, study=of.name, treated=regime.name, control=control, levels=levels)


NIGHT = Grid()


@run
def phase(grid: Grid = NIGHT) -> Phase:
    """A night on two cores: where the sign of NCA minus scratch turns, over five factors, seeds spent where it is uncertain.

    64 cells: model size (0.2M, 1M) x swap policy (4) x alphabet (2, 4 states) x learning rate (5e-4, 3e-3) x synthetic tokens (1M, 4M),
    each 1M tokens of language after it. Every cell gets 3 paired seeds, then those whose sign is least certain for its cost get one
    more, up to 8, until 1.8e15 FLOPs are spent: 8 hours at 31 GFLOP/s on each of two cores, which is 25,000 tokens/s of the smaller model.

    Can conclude: for each cell, whether the synthetic stage lowers or raises the final loss on this corpus at this language budget,
    with 5 % error over all looks of that cell; for all cells together where Holm's p says so. Also how much of a published sign
    is the scale of the embeddings that scratch is given.

    Cannot conclude: anything at other sizes, budgets, corpora or learning rates of language; that nothing happens in a cell that stays
    uncertain; the size of an effect in cells that stopped early (it is overestimated); by which circuit a sign comes about.
    """
    studies = tuple(study(grid, size) for size in grid.models)
    points = list(product(grid.swaps, grid.states, grid.lrs, grid.synthetic_tokens))
    return Phase(
        name="phase",
        title="Where NCA pre-pre-training helps: size, swap, alphabet, learning rate, synthetic tokens",
        factors=FACTORS,
        studies=studies,
        cells=tuple(cell(grid, of, *point) for of in studies for point in points),
        domain="web",
        first_seeds=grid.first_seeds,
        budget=grid.budget,
    )
