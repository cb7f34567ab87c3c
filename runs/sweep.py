"""Does transfer gain follow the distance from the domain? Complexities x alphabets x steps x domains x seeds, on two axes."""

from nca_interp.arms import published
from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import ArithmeticSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS
from nca_interp.sweep import band_of, sweep_arms

SEEDS = 3
MODEL = PRESETS["tiny"]
SWAP = published(MODEL.d_model)
BPE = TokenizerSpec(vocab_size=512)
LEVELS = {"low": (0.2, 0.4), "high": (0.6, 0.8), "top": (0.9, 1.0)}
"""Shares of the gzip reach. On rows as a model reads them (8x8, 2 to 4 states) they lie at 0.40-0.43, 0.74-0.76 and 0.93-0.94; the
corpora at 0.81 (prose), 0.77 (code) and 0.55 (arithmetic), so that distance and entropy order the arms differently (docs/sweep.md)."""
MIDDLE = {"mid": (0.4, 0.6)}
ACTIVITY = ("activity", {"calm": (0.0, 0.3), "lively": (0.4, 1.01)})
"""Crossed at the middle level only: below it most rules stand still, above it hardly one is calm."""
NCA = NcaSpec(grid=8, n_states=2, tau=1e-4)


def text(source: str) -> TextSpec:
    """The first 8 MB of a corpus."""
    return TextSpec(source=source, tokenizer=BPE, max_bytes=8_000_000, arithmetic=ArithmeticSpec(digits=1, max_steps=1))


@run
def sweep() -> Study:
    """An evening: sixteen NCA sources of three to four complexities, two alphabets, two steps and two activities before three domains.

    3 layers, 0.2M parameters, three seeds; 3.1M synthetic and 1.5M language tokens an arm. The arm is the unit of the test, so there are
    many arms and few seeds. About 380M tokens: 2.7 hours at 20,000 tokens/s on each of two quiet cores.

    Can conclude: whether gain over scratch falls with the distance of a source from the domain's corpus, beyond what entropy and
    learnability explain, or rises (or falls) with entropy, or follows only what the models learned, for this model and budget; with
    three domains whose corpora differ in complexity, whether the best complexity moves with the domain.

    Cannot conclude: anything of arms whose models do not beat rivals without a rule on new rules: they are shown and left out, and where
    fewer than five are left, the verdict is "cannot tell" (at this size most arms may be: raise the synthetic budget or the
    model first, e.g. --set ppt.steps=20000); which of two things matters that order the arms alike; anything at another size or budget.
    """
    nca = Regime(
        name="nca", label="NCA, 2 states, high", source=NCA.model_copy(update={"band": band_of(NCA, LEVELS["high"])}),
        checkpoints="ends", swap=SWAP,
    )  # fmt: skip
    pt = StageConfig(steps=1500, batch_size=8, lr=2e-3, eval_every=150, checkpoint_every=500, checkpoints="ends")
    arms = (
        *sweep_arms(nca.model_copy(update={"label": "NCA"}), levels=LEVELS, n_states=(2, 4), dt=(1, 2)),
        *sweep_arms(nca.model_copy(update={"label": "NCA"}), levels=MIDDLE, n_states=(2, 4), crossed=ACTIVITY),
    )
    return Study(
        name="sweep",
        title="Must the automata be as complex as the domain?",
        model=MODEL,
        regimes=(Regime(name="scratch", label="scratch", swap=SWAP, checkpoints="ends"), nca, *arms),
        domains=(
            Domain(name="web", label="prose B (stand-in for web text)", source=text("site:prose-b")),
            Domain(name="code", label="Python code", source=text("site:code")),
            Domain(name="math", label="worked arithmetic, one digit, one step", source=text("arithmetic:")),
        ),
        seeds=paired_seeds(SEEDS),
        primary=Primary(treated="nca", control="scratch", domain="web"),
        ppt=pt.model_copy(update={"steps": 3000, "lr": 3e-3, "eval_every": 300, "checkpoint_every": 1000}),
        pt=pt,
        val_rows=128,
        deviations=(
            "a 0.2M-parameter model with 3 layers, not 1.6B with 24; about 1.5M language tokens, not 9B",
            "corpora are docstrings and source code of installed packages and generated arithmetic, not C4, OpenWebText, OpenWebMath, CodeParrot",
            "NCA on an 8x8 grid with 2 and 4 states, not 12x12 with 10",
            "fresh embeddings as in the released code, N(0, 1), of every regime and of scratch: NCA is better than scratch alike there (docs/swap.md), "
            "so that there is something to explain; scratch at its own best scale is better than both",
        ),
    )
