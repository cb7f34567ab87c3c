"""A night on two CPU cores: all regimes with the shuffled control, three domains, three seeds, fine-tuning on arithmetic."""

from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS

BPE = TokenizerSpec(vocab_size=2048)
NCA = NcaSpec(grid=12, n_states=2, tau=1e-4, band=(0.3, 1.0))
WEB_ONLY = {"web": 3}


def arm(name: str, label: str, **changes: object) -> Regime:
    """A variant of the NCA regime that is compared on web text and code."""
    return Regime(
        name=name,
        label=label,
        source=NCA.model_copy(update=changes),
        role="complexity",
        checkpoints="ends",
        runs={"web": 3, "code": 3},
        ft=False,
    )


@run
def laptop() -> Study:
    """A night on two cores: all regimes and controls, three domains, three seeds, fine-tuning."""
    pt = StageConfig(steps=1000, batch_size=16, lr=1e-3, eval_every=100, checkpoint_every=250)
    nca_regime = Regime(name="nca", label="NCA", source=NCA)
    return Study(
        name="laptop",
        title="Synthetic pre-pre-training at laptop scale",
        model=PRESETS["mini"],
        regimes=(
            Regime(name="scratch", label="scratch"),
            Regime(name="c4", label="prose A (stand-in for C4)", source=TextSpec(source="site:prose-a", tokenizer=BPE)),
            Regime(name="dyck", label="Dyck (64-shuffle)", source=DyckSpec(variant="shuffle", k=64, max_depth=8)),
            nca_regime,
            *reinit_arms(nca_regime, WEB_ONLY),
            Regime(
                name="nca-shuffled",
                label="NCA, tokens shuffled",
                source=NCA.model_copy(update={"control": "shuffle_tokens"}),
                role="control",
                runs=WEB_ONLY,
                ft=False,
            ),
            Regime(
                name="nca-keep-attn",
                label="only attention kept",
                source=NCA,
                keep=("attn",),
                role="transfer",
                checkpoints="ends",
                runs=WEB_ONLY,
                ft=False,
            ),
            arm("nca-low", "NCA, lower band", band=(0.1, 0.3)),
            arm("nca-4", "NCA, 4 states", n_states=4, band=(0.6, 1.0)),
        ),
        domains=(
            Domain(
                name="web",
                label="prose B (stand-in for web text)",
                source=TextSpec(source="site:prose-b", tokenizer=BPE),
            ),
            Domain(
                name="code",
                label="Python code",
                source=TextSpec(source="site:code", tokenizer=BPE, max_bytes=30_000_000),
            ),
            Domain(
                name="math",
                label="worked arithmetic",
                source=TextSpec(source="arithmetic:", tokenizer=BPE),
                qa=QaSpec(),
            ),
        ),
        seeds=paired_seeds(3),
        primary=Primary(treated="nca", control="scratch", domain="web"),
        ppt=pt.model_copy(update={"steps": 500}),
        pt=pt,
        ft=pt.model_copy(update={"steps": 300, "lr": 3e-4, "checkpoints": "ends"}),
        val_rows=128,
        deviations=(
            "a 1.1M-parameter model with 4 layers, not 1.6B with 24; about 5M language tokens, not 9B",
            "corpora are docstrings and source code of installed packages and generated arithmetic, not C4, OpenWebText, OpenWebMath, CodeParrot",
            "NCA with 2 states, not 10; learning rate 1e-3 with full cosine in every stage",
        ),
    )
