"""Seconds: every stage, regime and comparison at the smallest size that still runs all the code. Used by the tests."""

from nca_interp.config import Domain, ModelConfig, Regime, Seeds, StageConfig, Study
from nca_interp.data.specs import ArithmeticSpec, DyckSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run

BPE = TokenizerSpec(vocab_size=300)


def text(source: str) -> TextSpec:
    """A small slice of an embedded corpus."""
    return TextSpec(source=source, tokenizer=BPE, max_bytes=120_000)


@run
def smoke() -> Study:
    """Seconds: all stages and regimes at the smallest size (for tests).

    Can conclude: that every stage, regime and comparison runs from end to end on this machine.

    Cannot conclude: anything about learning; six steps teach nothing.
    """
    nca = NcaSpec(grid=8, n_states=2, band=None)
    stage = StageConfig(steps=6, batch_size=4, lr=1e-3, eval_every=3, checkpoint_every=4)
    return Study(
        name="smoke",
        title="Smoke test: all stages, nothing learned",
        model=ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=64, n_ctx=128),
        regimes=(
            Regime(name="scratch", label="scratch"),
            Regime(name="c4", label="prose (stand-in for C4)", source=text("site:prose-a"), ft=False),
            Regime(name="dyck", label="Dyck", source=DyckSpec(k=8, max_depth=4), ft=False),
            Regime(name="nca", label="NCA", source=nca),
            Regime(
                name="nca-reinit-attn",
                label="attention re-initialised",
                source=nca,
                keep=("mlp", "norm"),
                role="transfer",
                runs={"web": 2},
                ft=False,
            ),
            Regime(
                name="nca-4",
                label="NCA, 4 states",
                source=nca.model_copy(update={"n_states": 4}),
                role="complexity",
                runs={"web": 2},
                ft=False,
            ),
        ),
        domains=(
            Domain(name="web", label="prose (stand-in for web text)", source=text("site:prose-b")),
            Domain(
                name="math",
                label="worked arithmetic",
                source=TextSpec(source="arithmetic:", tokenizer=BPE, max_bytes=60_000),
                qa=QaSpec(n_train=64, n_val=8, n_test=8, arithmetic=ArithmeticSpec(digits=1, max_steps=1)),
            ),
        ),
        seeds=(Seeds(init=0, order=0, rules=0), Seeds(init=1, order=1, rules=1)),
        ppt=stage,
        pt=stage,
        ft=stage.model_copy(update={"checkpoints": "ends"}),
        val_rows=8,
        deviations=("everything: this study only exercises the code",),
    )
