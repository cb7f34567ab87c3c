"""The demonstration: ten minutes on two CPU cores, spent where something can happen. See also laptop.py, gpu.py."""

from nca_interp.arms import CHOSEN, CHOSEN_SCRATCH, PLAIN, published, swap_arms
from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS

MODEL = PRESETS["tiny"]
BPE = TokenizerSpec(vocab_size=512)
NCA = NcaSpec(grid=8, n_states=2, tau=1e-4, band=(0.4, 1.0))
WEB = {"web": 3}


@run
def demo() -> Study:
    """Four sources of 1.25M tokens each, a positive control among them, before 0.15M tokens of prose; three ways of the embedding swap
    crossed with scratch and NCA; re-initialisation arms; three seeds.

    Can conclude: whether the circuits that the sources teach form (0.2M parameters are enough), whether the instruments find a head that
    is known to be there, and which heads outlive the embedding swap.

    Cannot conclude: whether NCA helps language at any useful size; what three seeds can find stands beside each
    verdict ("detectable"). Nothing was tuned until NCA
    won: the schedule of the synthetic stage was chosen by what that stage teaches, that of language on scratch alone
    (docs/demonstration.md).
    """
    ppt = StageConfig(
        steps=608, batch_size=16, lr=3e-3, schedule="constant", eval_every=76, checkpoint_every=76, checkpoints="even"
    )
    pt = StageConfig(steps=148, batch_size=8, lr=2e-3, eval_every=37, checkpoint_every=37, checkpoints="even")
    scratch = Regime(name="scratch", label="scratch", swap=CHOSEN_SCRATCH, runs=WEB)
    nca = Regime(name="nca", label="NCA", source=NCA, swap=CHOSEN, runs=WEB)
    drawn = {"plain": PLAIN, "published": published(MODEL.d_model)}
    prose = TextSpec(source="site:prose-a", tokenizer=BPE, max_bytes=4_000_000)
    return Study(
        name="demo",
        title="Does NCA pre-pre-training help? A demonstration on two CPU cores",
        model=MODEL,
        regimes=(
            scratch,
            nca,
            Regime(
                name="repeat",
                label="repeated tokens (positive control)",
                source=RepeatSpec(),
                role="control",
                swap=CHOSEN,
                runs=WEB,
            ),
            Regime(
                name="dyck", label="Dyck", source=DyckSpec(k=16, max_depth=8), swap=CHOSEN, runs=WEB, checkpoints="ends"
            ),
            Regime(
                name="c4", label="prose A (stand-in for C4)", source=prose, swap=CHOSEN, runs=WEB, checkpoints="ends"
            ),
            *(arm.model_copy(update={"checkpoints": "ends"}) for arm in swap_arms(scratch, drawn)),
            *swap_arms(nca, drawn),
            *(arm for arm in reinit_arms(nca, WEB) if "norm" in arm.keep),
        ),
        domains=(
            Domain(
                name="web",
                label="prose B (stand-in for web text)",
                source=TextSpec(source="site:prose-b", tokenizer=BPE, max_bytes=4_000_000),
            ),
        ),
        seeds=paired_seeds(3),
        primary=Primary(treated="nca", control="scratch", domain="web"),
        ppt=ppt,
        pt=pt,
        val_rows=64,
    )
