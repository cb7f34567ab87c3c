"""What carries the transfer: families of re-initialised and transplanted parts at the size of `laptop`, on one domain, with five seeds."""

from nca_interp.arms import (
    amounts,
    control_arms,
    layer_arms,
    matched_scratch,
    necessity_arms,
    once,
    published,
    shapley_arms,
    sufficiency_arms,
    tuned_scratch,
)
from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.specs import NcaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS

SEEDS = 5
MODEL = PRESETS["tiny"]
SWAP = published(MODEL.d_model)
NCA = NcaSpec(grid=8, n_states=2, tau=1e-4, band=(0.4, 1.0))
PPT = StageConfig(steps=3000, batch_size=8, lr=3e-3, eval_every=300, checkpoint_every=1000)
PT = StageConfig(steps=1500, batch_size=8, lr=2e-3, eval_every=150, checkpoint_every=500)
PARTS = ("attn", "mlp", "norm", "qk", "vo")


def text(corpus: str) -> TextSpec:
    """The first 8 MB of an embedded corpus."""
    return TextSpec(source=f"site:{corpus}", tokenizer=TokenizerSpec(vocab_size=512), max_bytes=8_000_000)


def families(nca: Regime) -> tuple[Regime, ...]:
    """Necessity, sufficiency, halves and single layers, Shapley sets and controls of one regime."""
    return once(
        *shapley_arms(nca),
        *necessity_arms(nca, PARTS),
        *necessity_arms(nca, ("attn", "mlp"), ("lower", "upper")),
        *necessity_arms(nca, ("attn",), to="fresh"),
        *sufficiency_arms(nca, ("qk", "vo", "attn+norm")),
        *layer_arms(nca, MODEL.n_layers),
        *control_arms(nca, ("permuted", "scaled", "directions", "spectrum", "norms")),
        *control_arms(nca, ("permuted", "spectrum"), "attn", donors=("repeat", "nca-shuffled")),
    )


@run
def carriers() -> Study:
    """Which parts carry it, at the size of `laptop`: necessity, sufficiency, layers, Shapley shares, controls, other budgets.

    3 layers, 0.2M parameters, prose. Every arm of NCA shares its five synthetic stages. The longest single stage is the prose with ten times
    the budget.

    Can conclude, with five paired seeds: whether NCA beats scratch on this prose (the primary comparison, tested alone); which of attention, MLP,
    norms, Q/K and V/O are needed for what is transferred or bring some of it alone, in which layers, and each module's share of the gap, if
    there is one; whether learned structure or only scale, spectrum or distribution of the weights does it; whether as many further
    tokens or FLOPs of language, another learning rate or (ten times) more prose do as well.

    Cannot conclude: anything where the gap to scratch is within its error (then there is no transfer to explain, and the report says so); that a part is
    not needed, unless the comparison says equivalent; anything about models of other sizes; about natural prose (the corpora are docstrings of
    installed packages); small effects: some 50 comparisons are corrected for together.
    """
    nca = Regime(name="nca", label="NCA", swap=SWAP, source=NCA, ft=False)
    prose = Regime(name="c4", label="prose A (stand-in for C4)", swap=SWAP, source=text("prose-a"), ft=False)
    own = Regime(
        name="own", label="prose B before prose B", swap=SWAP, source=text("prose-b"), role="control", ft=False
    )
    return Study(
        name="carriers",
        title="What carries the transfer",
        model=MODEL,
        regimes=(
            Regime(name="scratch", label="scratch", swap=SWAP),
            nca,
            prose,
            own,
            Regime(name="repeat", label="repeated tokens", swap=SWAP, source=RepeatSpec(), role="control"),
            Regime(
                name="nca-shuffled",
                label="NCA, tokens shuffled",
                swap=SWAP,
                source=NCA.model_copy(update={"control": "shuffle_tokens"}),
                role="control",
            ),
            *families(nca),
            *amounts(prose, PPT, (1, 10), kept=False),
            *amounts(own, PPT, (1,)),
            *matched_scratch(nca, ("tokens", "flops"), swap=SWAP),
            *tuned_scratch((0.5, 2.0), swap=SWAP),
        ),
        domains=(Domain(name="web", label="prose B (stand-in for web text)", source=text("prose-b")),),
        seeds=paired_seeds(SEEDS),
        primary=Primary(treated="nca", control="scratch", domain="web"),
        ppt=PPT,
        pt=PT,
        val_rows=128,
        deviations=(
            "a 0.2M-parameter model with 3 layers, not 1.6B with 24; about 1.5M language tokens, not 9B",
            "corpora are docstrings of installed packages, not C4 and OpenWebText",
            "NCA on an 8x8 grid with 2 states, not 12x12 with 10; learning rates 3e-3 and 2e-3 with a full cosine",
            "fresh embeddings as in the released code, N(0, 1), of every regime and of scratch: NCA is better than scratch alike there (docs/swap.md), "
            "so that there is something to explain; scratch at its own best scale is better than both",
            "prose with ten times the budget goes over its 8 MB several times",
        ),
    )
