"""An evening on two CPU cores: every comparison of this project at the size of `tiny`, with five seeds."""

from nca_interp.arms import CHOSEN, CHOSEN_SCRATCH, PLAIN, published, swap_arms
from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS
from nca_interp.swap_policy import SwapPolicy

SEEDS = 5
MODEL = PRESETS["tiny"]
BPE = TokenizerSpec(vocab_size=512)
NCA = NcaSpec(grid=8, n_states=2, tau=1e-4, band=(0.4, 1.0))
CELLS = {
    "nca-low": NCA.model_copy(update={"band": (0.15, 0.4)}),
    "nca-3-low": NCA.model_copy(update={"n_states": 3, "band": (0.25, 0.5)}),
    "nca-3": NCA.model_copy(update={"n_states": 3, "band": (0.5, 1.0)}),
    "nca-4-low": NCA.model_copy(update={"n_states": 4, "band": (0.3, 0.6)}),
    "nca-4": NCA.model_copy(update={"n_states": 4, "band": (0.6, 1.0)}),
}
"""With `nca` itself six cells: three alphabets, each with a lower and an upper band of what random rules of an 8x8 grid reach."""
WEB = {"web": SEEDS}
BOTH = {"web": SEEDS, "code": SEEDS}
EVERYWHERE = {"web": SEEDS, "code": SEEDS, "web-short": SEEDS, "web-long": SEEDS}
BUDGETS = {"web": SEEDS, "web-short": SEEDS, "web-long": SEEDS}
POLICIES = {
    "shrunk": SwapPolicy(body_scale="shrink_to_initial"),
    "match-rms": SwapPolicy(embed="match_rms"),
    "frozen": CHOSEN.model_copy(update={"freeze_body": 150}),
}
"""Of NCA on web text, beside the three that every regime gets."""


def text(corpus: str) -> TextSpec:
    """The first 8 MB of an embedded corpus."""
    return TextSpec(source=f"site:{corpus}", tokenizer=BPE, max_bytes=8_000_000)


def as_published(regime: Regime, runs: dict[str, int]) -> tuple[Regime, ...]:
    """The same regime with fresh embeddings as the released code draws them, N(0, 1)."""
    return swap_arms(regime, {"published": published(MODEL.d_model)}, runs)


def plain(regime: Regime, runs: dict[str, int]) -> tuple[Regime, ...]:
    """The same regime with fresh embeddings N(0, 0.02^2) and the body as it is."""
    return swap_arms(regime, {"plain": PLAIN}, runs)


def regimes() -> tuple[Regime, ...]:
    """All arms; those of one source share its synthetic stage."""
    nca = Regime(name="nca", label="NCA", source=NCA, swap=CHOSEN, runs=EVERYWHERE)
    scratch = Regime(name="scratch", label="scratch", swap=CHOSEN_SCRATCH, runs=EVERYWHERE)
    others = (
        Regime(name="c4", label="prose A (stand-in for C4)", source=text("prose-a"), swap=CHOSEN, runs=WEB),
        Regime(name="dyck", label="Dyck (16 types)", source=DyckSpec(k=16, max_depth=8), swap=CHOSEN, runs=WEB),
        Regime(name="repeat", label="repeated tokens", source=RepeatSpec(), role="control", swap=CHOSEN, runs=WEB),
        Regime(
            swap=CHOSEN,
            name="nca-shuffled",
            label="NCA, tokens shuffled",
            source=NCA.model_copy(update={"control": "shuffle_tokens"}),
            role="control",
            runs=WEB,
        ),
    )
    cells = (
        Regime(
            name=name, label=f"NCA, {spec.n_states} states, {'lower' if name.endswith('low') else 'upper'} band", source=spec, swap=CHOSEN,
            role="complexity", checkpoints="ends", runs=BOTH,
        )
        for name, spec in CELLS.items()
    )  # fmt: skip
    only_attention = nca.model_copy(
        update={
            "name": "nca-keep-attn", "label": "only attention kept", "keep": ("attn",), "role": "transfer", "checkpoints": "ends",
            "runs": WEB,
        }
    )  # fmt: skip
    return (
        scratch,
        nca,
        *others,
        *as_published(scratch, BUDGETS),
        *as_published(nca, BUDGETS),
        *plain(scratch, WEB),
        *plain(nca, WEB),
        *(arm for other in others for arm in as_published(other, WEB)),
        *swap_arms(nca, POLICIES, WEB),
        *reinit_arms(nca, WEB),
        only_attention,
        *cells,
    )


@run
def laptop() -> Study:
    """An evening, at most 4 hours on two cores: all regimes, controls, swap policies, transfer arms, six complexities, five seeds.

    3 layers, 0.2M parameters; 3.1M synthetic and 1.5M language tokens an arm (0.4M and 3.1M for the two main contrasts), on prose and
    code. About 460M tokens: 3.2 hours at 20,000 tokens/s on each of two quiet cores, the rest for token files, analysis and report.
    Every arm of one source shares its synthetic stage.

    Can conclude, with five paired seeds: whether NCA beats scratch on this prose at this size (the primary comparison, tested alone);
    how much that depends on the embedding swap (matched and the body shrunk, 0.02, or N(0, 1) as published), which scratch gets too; whether NCA beats prose, Dyck, repeated
    tokens (known to grow induction heads) and its own shuffled tokens, which have no rule; what is lost when attention,
    MLP or norms are re-initialised; whether the sign is the same at a quarter and at twice the language budget.

    Cannot conclude: anything about models of other sizes or trained for longer; anything about natural prose: the corpora are docstrings
    and sources of installed packages; that a comparison other than the primary one has no effect: some 50 are corrected for together,
    so only large ones show; which complexity fits which domain beyond six cells and two domains; reasoning after fine-tuning,
    of which a model of this size shows nothing.
    """
    pt = StageConfig(steps=1500, batch_size=8, lr=2e-3, eval_every=150, checkpoint_every=500)
    return Study(
        name="laptop",
        title="Synthetic pre-pre-training at laptop scale",
        model=MODEL,
        regimes=regimes(),
        domains=(
            Domain(name="web", label="prose B (stand-in for web text)", source=text("prose-b")),
            Domain(name="code", label="Python code", source=text("code")),
            Domain(
                name="web-short",
                label="prose B, a quarter of the tokens",
                source=text("prose-b"),
                pt=pt.model_copy(update={"steps": 375, "checkpoints": "ends"}),
            ),
            Domain(
                name="web-long",
                label="prose B, twice the tokens",
                source=text("prose-b"),
                pt=pt.model_copy(update={"steps": 3000, "eval_every": 300, "checkpoints": "ends"}),
            ),
        ),
        seeds=paired_seeds(SEEDS),
        primary=Primary(treated="nca", control="scratch", domain="web"),
        ppt=pt.model_copy(update={"steps": 3000, "lr": 3e-3, "eval_every": 300, "checkpoint_every": 1000}),
        pt=pt,
        val_rows=128,
        deviations=(
            "a 0.2M-parameter model with 3 layers, not 1.6B with 24; about 1.5M language tokens, not 9B",
            "corpora are docstrings and source code of installed packages, not C4, OpenWebText, OpenWebMath, CodeParrot",
            "NCA on an 8x8 grid with 2 states, not 12x12 with 10; learning rates 3e-3 and 2e-3 with a full cosine",
            "the swap draws embeddings at the parent's root mean square and shrinks the body to its initial norms; N(0, 1), as in the released "
            "code, is an arm of each regime",
        ),
    )
