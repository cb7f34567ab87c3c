"""The demonstration: every regime and comparison at the size of ten minutes on two CPU cores. See also laptop.py, gpu.py."""

from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, NcaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS

BPE = TokenizerSpec(vocab_size=512)
NCA = NcaSpec(grid=8, n_states=2, tau=1e-4, band=(0.4, 1.0))
FOUR = NCA.model_copy(update={"n_states": 4, "band": (0.6, 1.0)})
LOW = NCA.model_copy(update={"band": (0.15, 0.4)})


@run
def demo() -> Study:
    """Ten minutes on two cores: four regimes, re-initialisation, bands and alphabets, three seeds."""
    stage = StageConfig(steps=220, batch_size=8, lr=2e-3, eval_every=50, checkpoint_every=100)
    both = {"web": 3, "code": 2}
    web = {"web": 3, "code": 0}
    nca_regime = Regime(name="nca", label="NCA", source=NCA, runs=both)
    return Study(
        name="demo",
        title="Does NCA pre-pre-training help? A demonstration on two CPU cores",
        model=PRESETS["tiny"],
        regimes=(
            Regime(name="scratch", label="scratch", runs=both),
            Regime(
                name="c4",
                label="prose A (stand-in for C4)",
                source=TextSpec(source="site:prose-a", tokenizer=BPE, max_bytes=4_000_000),
                runs=web,
            ),
            Regime(name="dyck", label="Dyck", source=DyckSpec(k=16, max_depth=8), runs=web),
            nca_regime,
            *reinit_arms(nca_regime, web),
            Regime(
                name="nca-low",
                label="NCA, lower band",
                source=LOW,
                role="complexity",
                checkpoints="ends",
                runs={"web": 2, "code": 2},
            ),
            Regime(
                name="nca-4",
                label="NCA, 4 states",
                source=FOUR,
                role="complexity",
                checkpoints="ends",
                runs={"web": 2, "code": 2},
            ),
        ),
        domains=(
            Domain(
                name="web",
                label="prose B (stand-in for web text)",
                source=TextSpec(source="site:prose-b", tokenizer=BPE, max_bytes=4_000_000),
            ),
            Domain(
                name="code",
                label="Python code",
                source=TextSpec(source="site:code", tokenizer=BPE, max_bytes=4_000_000),
            ),
        ),
        seeds=paired_seeds(3),
        primary=Primary(treated="nca", control="scratch", domain="web"),
        ppt=stage.model_copy(update={"steps": 110, "lr": 4e-4}),
        pt=stage,
        val_rows=64,
    )
