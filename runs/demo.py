"""The demonstration: ten minutes on two CPU cores, spent where something can happen. See also laptop.py, gpu.py."""

from nca_interp.arms import scratch_arms, stds, swap_arms
from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.controls.repeat import RepeatSpec
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS
from nca_interp.swap_policy import SwapPolicy

BPE = TokenizerSpec(vocab_size=512)
NCA = NcaSpec(grid=8, n_states=2, tau=1e-4, band=(0.4, 1.0))
WEB = {"web": 3}


@run
def demo() -> Study:
    """Four sources of 1M tokens each, a positive control among them, before 0.25M tokens of prose; embedding scale crossed with scratch
    and NCA, re-initialisation arms, three seeds.

    Can conclude: whether the circuits that the sources teach form (0.2M parameters are enough), which of their heads outlive the swap,
    and that instruments find a head that is known to be there. Cannot: whether NCA helps language at any useful size; three seeds
    find differences of about 0.1 nats. The schedule of the synthetic stage was chosen on what that stage learns, that of language on scratch
    alone (docs/demonstration.md).
    """
    ppt = StageConfig(steps=977, batch_size=8, lr=2e-3, eval_every=100, checkpoint_every=122)
    pt = StageConfig(steps=245, batch_size=8, lr=2e-3, eval_every=49, checkpoint_every=49)
    nca = Regime(name="nca", label="NCA", source=NCA, runs=WEB)
    policies = {
        **stds([1.0]),
        "shrunk": SwapPolicy(embed="match_rms", body_scale="shrink_to_initial"),
    }
    return Study(
        name="demo",
        title="Does NCA pre-pre-training help? A demonstration on two CPU cores",
        model=PRESETS["tiny"],
        regimes=(
            *scratch_arms([1.0], WEB),
            Regime(
                name="c4",
                label="prose A (stand-in for C4)",
                source=TextSpec(source="site:prose-a", tokenizer=BPE, max_bytes=4_000_000),
                runs=WEB,
            ),
            Regime(name="dyck", label="Dyck", source=DyckSpec(k=16, max_depth=8), runs=WEB, checkpoints="ends"),
            nca,
            Regime(
                name="repeat", label="repeated tokens (positive control)", source=RepeatSpec(), role="control", runs=WEB
            ),
            *swap_arms(nca, policies),
            *reinit_arms(nca, WEB),
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
