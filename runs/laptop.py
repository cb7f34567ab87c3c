"""An evening on two CPU cores: every comparison of this project at the size of `tiny`. The study published in reports/ is this one."""

from nca_interp.arms import CHOSEN, CHOSEN_SCRATCH, PLAIN, mediation_arms, published, shapley_arms, swap_arms
from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.specs import DyckSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.head_rule import HeadRule
from nca_interp.model.presets import PRESETS

SEEDS, CELL_SEEDS, RANDOM = 5, 3, 4
MODEL = PRESETS["tiny"]
SWAP = published(MODEL.d_model)
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
STENCIL = HeadRule(probe="nca_stencil", k=2)
WEB = {"web": SEEDS}
BUDGETS = WEB | {"web-short": SEEDS, "web-long": SEEDS}
ASKED = ("scratch", "nca", "repeat")
"""Regimes that are fine-tuned on questions; as the recipe `questions` does, where the accuracy is neither at chance nor at 1."""


def text(corpus: str) -> TextSpec:
    """The first 8 MB of an embedded corpus."""
    return TextSpec(source=f"site:{corpus}", tokenizer=BPE, max_bytes=8_000_000)


def ends(arms: tuple[Regime, ...]) -> tuple[Regime, ...]:
    """The same arms with their first and last checkpoint only."""
    return tuple(arm.model_copy(update={"checkpoints": "ends"}) for arm in arms)


def regimes() -> tuple[Regime, ...]:
    """All arms; those of one source share its synthetic stage."""
    scratch = Regime(name="scratch", label="scratch", swap=SWAP, runs=BUDGETS)
    nca = Regime(name="nca", label="NCA", source=NCA, swap=SWAP, runs=BUDGETS)
    repeat = Regime(name="repeat", label="repeated tokens", source=RepeatSpec(), role="control", swap=SWAP, runs=WEB)
    others = (
        Regime(name="c4", label="prose A (stand-in for C4)", source=text("prose-a"), swap=SWAP, runs=WEB),
        Regime(name="dyck", label="Dyck (16 types)", source=DyckSpec(k=16, max_depth=8), swap=SWAP, runs=WEB),
        Regime(
            name="nca-shuffled",
            label="NCA, tokens shuffled",
            source=NCA.model_copy(update={"control": "shuffle_tokens"}),
            role="control",
            swap=SWAP,
            runs=WEB,
        ),
    )
    cells = tuple(
        Regime(
            name=name,
            label=f"NCA, {spec.n_states} states, {'lower' if name.endswith('low') else 'upper'} band",
            source=spec,
            role="complexity",
            swap=SWAP,
            runs={"web": CELL_SEEDS},
        )
        for name, spec in CELLS.items()
    )
    found = (
        scratch,
        nca,
        repeat,
        *others,
        *ends(swap_arms(scratch, {"chosen": CHOSEN_SCRATCH}, BUDGETS)),
        *swap_arms(nca, {"chosen": CHOSEN}, BUDGETS),
        *ends(swap_arms(scratch, {"plain": PLAIN}, WEB)),
        *ends(swap_arms(nca, {"plain": PLAIN}, WEB)),
        *ends(tuple(arm for one in (repeat, *others) for arm in swap_arms(one, {"chosen": CHOSEN}, WEB))),
        *ends(shapley_arms(nca, WEB)),
        *mediation_arms(nca, STENCIL, RANDOM, WEB),
        *ends(cells),
    )
    return tuple(arm.model_copy(update={"ft": arm.name in ASKED}) for arm in found)


@run
def laptop() -> Study:
    """An evening on two cores: regimes x embedding swap, parts and heads taken away, six complexities, three budgets of text.

    3 layers, 0.2M parameters; 3.1M synthetic and 0.5M language tokens an arm (0.13M and 1.0M for the main contrasts), five seeds (the
    further complexities: three). About 240M tokens, 15M of them in fine-tuning: 1.7 hours at 20,000 tokens/s on each of two quiet cores, the rest for token files,
    analysis and report. Every arm of one source shares its synthetic stages.

    Fresh embeddings are those of the released code, N(0, 1), of every regime and of scratch; `-chosen` arms have the swap that costs
    least here (docs/swap.md), scratch its own best scale, `-plain` arms N(0, 0.02^2).

    Can conclude, with five paired seeds: whether NCA beats scratch on this prose at this size (the primary comparison, tested alone), and
    how much of that is the embedding's scale; whether NCA beats prose, Dyck, repeated tokens (known to grow induction heads) and its own
    shuffled tokens, which have no rule; what is lost when attention, MLP or norms are re-initialised, and each one's share; what goes with the
    two heads that read the automaton's causes best, held against random heads; whether the sign is the same at a quarter and at
    twice the language budget; whether NCA or repeated tokens make key-value recall easier to learn in fine-tuning.

    Cannot conclude: anything about models of other sizes or trained for longer; anything about natural prose: the corpora are docstrings
    of installed packages; that a comparison other than the primary one has no effect: some 40 are corrected for together,
    so only large ones show; which complexity fits which domain: there are six cells and one domain (see the recipe sweep);
    reasoning of several steps.
    """
    pt = StageConfig(steps=250, batch_size=16, lr=2e-3, eval_every=25, checkpoint_every=125)
    return Study(
        name="laptop",
        title="Synthetic pre-pre-training at laptop scale",
        model=MODEL,
        regimes=regimes(),
        domains=(
            Domain(
                name="web",
                label="prose B (stand-in for web text)",
                source=text("prose-b"),
                qa=QaSpec(source="puzzle:recall:1", n_train=2000, n_val=64, n_test=400, choose="best"),
                epochs=4,
            ),
            Domain(
                name="web-short",
                label="prose B, a quarter of the tokens",
                source=text("prose-b"),
                pt=pt.model_copy(update={"steps": 64, "eval_every": 16, "checkpoints": "ends"}),
            ),
            Domain(
                name="web-long",
                label="prose B, twice the tokens",
                source=text("prose-b"),
                pt=pt.model_copy(update={"steps": 500, "eval_every": 50, "checkpoints": "ends"}),
            ),
        ),
        seeds=paired_seeds(SEEDS),
        primary=Primary(treated="nca", control="scratch", domain="web"),
        ppt=StageConfig(steps=1500, batch_size=16, lr=3e-3, eval_every=150, checkpoint_every=300),
        pt=pt,
        ft=StageConfig(steps=252, batch_size=32, lr=2e-3, checkpoints="even"),
        val_rows=128,
        deviations=(
            "a 0.2M-parameter model with 3 layers, not 1.6B with 24; about 0.5M language tokens, not 9B",
            "corpora are docstrings of installed packages, not C4 and OpenWebText",
            "NCA on an 8x8 grid with 2 states, not 12x12 with 10; learning rates 3e-3 and 2e-3 with a full cosine",
            "five seeds of synthetic stage, initial weights and data order together; further complexities have three",
        ),
    )
