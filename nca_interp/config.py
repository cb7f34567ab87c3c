"""What a study is: frozen models, validated once, saved as JSON before the first step, never edited afterwards.

A study is a matrix of regimes x domains x seeds with one model and one budget for each stage. Recipes in `runs/`
return one; `--set a.b=v` (overrides.py) changes one field of it, typed and checked like the recipe itself.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, get_args

from pydantic import Field, model_validator

from nca_interp.base import Frozen, UserError
from nca_interp.checkpoint_spec import CheckpointSpec
from nca_interp.claims import Claim, check_claims
from nca_interp.data.controls.base import Control
from nca_interp.data.specs import NcaSpec, QaSpec, SourceSpec, TextSpec
from nca_interp.graft import NOTHING, Graft, check_graft
from nca_interp.model_config import ModelConfig as ModelConfig
from nca_interp.stage_config import Checkpoints as Checkpoints
from nca_interp.stage_config import StageConfig as StageConfig
from nca_interp.swap_policy import TODAY, Place, SwapPolicy, check_policy

Module = Literal["attn", "mlp", "norm"]
MODULES: tuple[Module, ...] = ("attn", "mlp", "norm")
Stage = Literal["ppt", "pt", "ft"]
STAGE_LABELS: dict[str, str] = {"ppt": "pre-pre-training", "pt": "pre-training", "ft": "fine-tuning"}
SeedNumber = Annotated[int, Field(ge=0, lt=2**63)]
T = TypeVar("T", "Regime", "Domain")
if TYPE_CHECKING:
    ParentSpec = SourceSpec | CheckpointSpec
else:
    ParentSpec = Annotated[get_args(SourceSpec)[0] | CheckpointSpec, Field(discriminator="kind")]


class Seeds(Frozen):
    """The three separate sources of chance; regimes are compared at equal seeds (paired)."""

    init: SeedNumber
    """Initial weights, and fresh embeddings at the swap."""
    order: SeedNumber
    """Order of the training data."""
    rules: SeedNumber
    """Synthetic rules and strings; text corpora do not depend on it."""


class Regime(Frozen):
    """What a model sees before language, and what of it is kept."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)
    """Short name, used in run names."""
    label: str
    """Name in reports; stand-ins are named as what they are."""
    source: ParentSpec | None = None
    """Data of the pre-pre-training stage, or a checkpoint in its place; null: trained on language from scratch."""
    keep: tuple[Module, ...] = MODULES
    """Module types carried over at the swap; the rest is re-initialised. Of the embeddings `swap` speaks."""
    reinit_to: Literal["initial", "fresh"] = "initial"
    """Where re-initialised modules go: back to this seed's initial weights (so nothing kept = scratch), or a fresh draw."""
    swap: SwapPolicy = TODAY
    """How embeddings are drawn and in which state the body enters pre-training; all of it null: as the model says, the body as it is."""
    graft: Graft = NOTHING
    """Parts, layers or heads that are re-initialised or alone carried over, and what stands in place of the others (docs/transfer.md)."""
    ppt: StageConfig | None = None
    """Pre-pre-training budget of this regime; null: the study's."""
    no_previous_token: tuple[Literal["ppt", "pt"], ...] = ()
    """Stages of this regime that are trained with `no_previous_token`, whatever the stage says: ppt, pt or both."""
    lr_factor: float = Field(default=1.0, gt=0, le=100)
    """Times the peak learning rate of pre-training, in every domain."""
    adds: str | None = None
    """Of a regime from scratch: the regime whose pre-pre-training is added to its language budget, as further steps; null: none."""
    adds_by: Literal["tokens", "flops"] = "tokens"
    """What of it is added: as many tokens (token-matched over both stages), or as many FLOPs (compute-matched)."""
    ft: bool = True
    """Whether its models are fine-tuned on the domains that have questions."""
    checkpoints: Checkpoints | None = None
    """Which checkpoints its runs keep; null: what the stage says, as fine-tuning does that chooses the best of them."""
    role: Literal["regime", "transfer", "complexity", "control", "swap", "mediation"] = "regime"
    """Which comparison of the report it belongs to."""
    runs: dict[str, int] | None = None
    """Domain -> number of seeds (the first ones); null: every domain with every seed."""


class Domain(Frozen):
    """A language domain: the corpus of the pre-training stage, and questions for fine-tuning."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)
    """Short name, used in run names."""
    label: str
    """Name in reports."""
    source: TextSpec
    """The corpus."""
    pt: StageConfig | None = None
    """Pre-training budget of this domain; null: the study's."""
    qa: QaSpec | None = None
    """Question-answer pairs for fine-tuning and exact-match accuracy; null: no fine-tuning stage."""
    epochs: int | None = Field(default=None, ge=1, le=1000)
    """Passes over the training problems (`qa.n_train`) in fine-tuning, validated and kept after each; null: as long as `ft` says."""


class Primary(Frozen):
    """The one comparison that a study is about, if it names one: tested alone and first, before all others."""

    treated: str
    """Regime whose loss or accuracy is taken minus that of the other."""
    control: str
    """The other regime."""
    domain: str
    """Domain on which they are compared."""
    metric: Literal["val_loss", "accuracy"] = "val_loss"
    """What is compared."""


class Study(Frozen):
    """A whole experiment; a recipe in `runs/` returns one."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)
    """Folder name under runs/out/."""
    title: str
    """Headline of the report."""
    model: ModelConfig
    """The network, equal in all regimes."""
    regimes: tuple[Regime, ...]
    """Compared regimes."""
    domains: tuple[Domain, ...]
    """Compared domains."""
    seeds: tuple[Seeds, ...]
    """Replications, the unit of all statistics."""
    ppt: StageConfig
    """Pre-pre-training."""
    pt: StageConfig
    """Pre-training on a domain."""
    ft: StageConfig | None = None
    """Fine-tuning on question-answer pairs; null: none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: autocast of matrix products. auto: bf16 where the hardware multiplies bf16 natively, else fp32; on a processor fp32
    also for models narrower than 128 (d_model), which bf16 slows down."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile of the blocks. auto: for runs long enough to pay for it, where there is a compiler; changes the last bits."""
    val_rows: int = Field(default=256, ge=1)
    """Rows in the validation split of every token file; all of them are evaluated each time, the same for every regime."""
    margin: float = Field(default=0.01, gt=0)
    """Nats a token within which two regimes count as equivalent (declared before the run)."""
    primary: Primary | None = None
    """A comparison that is tested alone at 5 %; the others count only if it shows a difference. null: all are corrected for together."""
    claims: tuple[Claim, ...] | None = None
    """What it claims to test, in the order of the report; null: the paper's claims that its arms can speak to."""
    deviations: tuple[str, ...] = ()
    """What differs from arXiv 2603.10055, one sentence each, for the report."""

    @model_validator(mode="after")
    def _names(self) -> Study:
        domains = [d.name for d in self.domains]
        for field, names in (("regimes", [r.name for r in self.regimes]), ("domains", domains)):
            if not names:
                raise ValueError(f"{field}: at least one is needed")
            if len(set(names)) < len(names):
                raise ValueError(f"{field}: names must differ, got {', '.join(names)}")
        if not self.seeds:
            raise ValueError("seeds: at least one is needed")
        for regime in self.regimes:
            if regime.ppt is not None and (regime.source is None or isinstance(regime.source, CheckpointSpec)):
                what = "from scratch (source null)" if regime.source is None else "from a checkpoint"
                raise ValueError(
                    f"regimes.{regime.name}.ppt: a budget for pre-pre-training, which a regime {what} has not; legal: null"
                )
            if isinstance(regime.source, CheckpointSpec) and len(regime.source.paths) not in (1, len(self.seeds)):
                raise ValueError(
                    f"regimes.{regime.name}.source.paths: {len(regime.source.paths)} checkpoints for {len(self.seeds)} seeds; "
                    f"legal: 1 (every seed starts from it) or {len(self.seeds)} (one a seed)"
                )
            if "ppt" in regime.no_previous_token and regime.source is None:
                raise ValueError(
                    f"regimes.{regime.name}.no_previous_token: ppt, and this regime is trained from scratch (source null); legal: pt"
                )
            for name, n in (regime.runs or {}).items():
                if name not in domains:
                    raise ValueError(f"regimes.{regime.name}.runs: unknown domain {name!r}{suggest(name, domains)}")
                if not 0 <= n <= len(self.seeds):
                    raise ValueError(f"regimes.{regime.name}.runs.{name}: {n} seeds of {len(self.seeds)}")
            self._adds(regime)
            places = [d for d in self.domains if regime.runs is None or regime.runs.get(d.name)]
            self._swap(regime, places)
        for domain in self.domains:
            if domain.qa is None and domain.epochs is not None:
                raise ValueError(
                    f"domains.{domain.name}.epochs: {domain.epochs}, and there are no questions (qa null); legal: null"
                )
            if domain.qa is not None and self.ft is None:
                raise ValueError(f"domains.{domain.name}.qa: fine-tuning data given but the study has no ft stage")
        if self.ft is not None and self.ft.no_previous_token:
            raise ValueError("ft.no_previous_token: true, and answers are generated without that mask; legal: false")
        if self.primary is not None:
            regimes = [r.name for r in self.regimes]
            for name, legal in (
                (self.primary.treated, regimes),
                (self.primary.control, regimes),
                (self.primary.domain, domains),
            ):
                if name not in legal:
                    raise ValueError(f"primary: unknown {name!r}{suggest(name, legal)}")
        check_claims(self.claims or (), [r.name for r in self.regimes])
        self._frames()
        self._controls()
        return self

    def _adds(self, regime: Regime) -> None:
        if regime.adds is None:
            return
        where, sources = f"regimes.{regime.name}.adds", {r.name: r.source for r in self.regimes}
        if regime.source is not None:
            raise ValueError(
                f"{where}: {regime.adds!r}: this regime has a pre-pre-training of its own; legal: null, or source null"
            )
        legal = [n for n, source in sources.items() if source is not None and not isinstance(source, CheckpointSpec)]
        if regime.adds not in legal:
            raise ValueError(
                f"{where}: {regime.adds!r} is no regime with a pre-pre-training{suggest(regime.adds, legal)}"
            )

    def _swap(self, regime: Regime, domains: list[Domain]) -> None:
        stages = [(domain, self.pt_of(regime, domain)) for domain in domains]
        rows = self.ppt_of(regime).vocab_rows
        places = [Place(d.name, d.source, pt.steps, pt.vocab_rows == rows) for d, pt in stages]
        where, swap = f"regimes.{regime.name}", regime.swap
        check_policy(f"{where}.swap", swap, regime.source, self.model.tied, places)
        check_graft(
            f"{where}.graft", regime.graft, self.model, source=regime.source, own=regime.name,
            keeps_embeddings="keep" in (swap.embed, swap.unembed_draw), keep=regime.keep,
            all_kept=set(regime.keep) == set(MODULES), sources={r.name: r.source for r in self.regimes},
        )  # fmt: skip

    def _frames(self) -> None:
        for regime in self.regimes:
            if isinstance(regime.source, NcaSpec) and self.model.n_ctx < 2 * regime.source.tokens_per_frame:
                raise ValueError(
                    f"model.n_ctx: {self.model.n_ctx} holds less than two frames of {regime.source.tokens_per_frame} "
                    f"tokens of regime {regime.name}; use a longer context or a smaller grid"
                )

    def _controls(self) -> None:
        for regime in self.regimes:
            if isinstance(regime.source, Control) and (lack := regime.source.lacks(self.model.n_ctx + 1)):
                raise ValueError(
                    f"regimes.{regime.name}.source.{lack} (model.n_ctx {self.model.n_ctx} and the next token)"
                )

    def ppt_of(self, regime: Regime) -> StageConfig:
        """Pre-pre-training as a regime of this study does it."""
        return blinded(regime.ppt or self.ppt, "ppt" in regime.no_previous_token)

    def pt_of(self, regime: Regime, domain: Domain) -> StageConfig:
        """Pre-training of a regime on a domain."""
        return blinded(domain.pt or self.pt, "pt" in regime.no_previous_token)

    def ft_of(self, domain: Domain) -> StageConfig:
        """Fine-tuning on the questions of a domain, which has some."""
        assert self.ft is not None
        assert domain.qa is not None
        if domain.epochs is None:
            return self.ft
        each = math.ceil(domain.qa.n_train / self.ft.batch_size)
        steps = each * domain.epochs
        kept = "even" if domain.qa.choose == "best" else self.ft.checkpoints
        horizon = None if self.ft.horizon is None else math.ceil(self.ft.horizon * steps / self.ft.steps)
        changes = {
            "steps": steps,
            "horizon": horizon,
            "eval_every": each,
            "checkpoint_every": each,
            "checkpoints": kept,
        }
        return StageConfig.model_validate(self.ft.model_dump() | changes)

    def regime(self, name: str) -> Regime:
        """The regime called `name`; UserError with a suggestion if there is none."""
        return _named(self.regimes, "regime", name)

    def domain(self, name: str) -> Domain:
        """The domain called `name`; UserError with a suggestion if there is none."""
        return _named(self.domains, "domain", name)


def blinded(stage: StageConfig, asked: bool) -> StageConfig:
    """The stage, without attention to the previous token where that is `asked`."""
    return stage.model_copy(update={"no_previous_token": True}) if asked else stage


def paired_seeds(n: int) -> tuple[Seeds, ...]:
    """`n` replications, each with its own initial weights, data order and rules."""
    return tuple(Seeds(init=s, order=s, rules=s) for s in range(n))


def reinit_arms(
    regime: Regime, runs: dict[str, int] | None, reinit_to: Literal["initial", "fresh"] = "initial"
) -> tuple[Regime, ...]:
    """Variants of `regime`, each with one module type re-initialised at the swap (arXiv 2603.10055, section 5.3.1)."""
    labels = {"attn": "attention re-initialised", "mlp": "MLP re-initialised", "norm": "norms re-initialised"}
    return tuple(
        regime.model_copy(
            update={
                "name": f"{regime.name}-reinit-{module}",
                "label": labels[module],
                "keep": tuple(m for m in MODULES if m != module),
                "reinit_to": reinit_to,
                "role": "transfer",
                "checkpoints": "ends",
                "runs": runs,
                "ft": False,
            }
        )
        for module in MODULES
    )


def _named(items: Iterable[T], what: str, name: str) -> T:
    items = list(items)
    for item in items:
        if item.name == name:
            return item
    raise UserError(f"unknown {what} {name!r}{suggest(name, [i.name for i in items])}")


SHOWN = 80
"""Legal names that a message lists."""


def suggest(name: str, legal: Iterable[str]) -> str:
    """'; did you mean X?' where something is near, and the legal names."""
    legal = list(legal)
    near = difflib.get_close_matches(name, legal, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    more = f" and {len(legal) - SHOWN} more" if len(legal) > SHOWN else ""
    return f"{hint} (legal: {', '.join(legal[:SHOWN])}{more})" if legal else hint
