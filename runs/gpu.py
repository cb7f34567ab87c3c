"""One data-centre GPU: about 50M parameters, the paper's 164M-token budget, real corpora by streaming (needs a network)."""

from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS

GPT2 = TokenizerSpec(kind="hf", name="gpt2")
NCA = NcaSpec(tau=1e-3)


def hub(preset: str) -> TextSpec:
    """A corpus streamed from the Hugging Face hub, in GPT-2 tokens."""
    return TextSpec(source=f"hf:{preset}", tokenizer=GPT2)


@run
def gpu() -> Study:
    """One H200: 50M parameters, 164M tokens of pre-pre-training, 0.5B of language, five regimes, three domains."""
    pt = StageConfig(
        steps=1000,
        batch_size=512,
        micro_batch=32,
        lr=5e-4,
        min_lr_ratio=0.0,
        weight_decay=1e-4,
        betas=(0.9, 0.999),
        eval_every=50,
        checkpoint_every=250,
    )
    ppt = pt.model_copy(
        update={
            "steps": 5000,
            "batch_size": 32,
            "micro_batch": None,
            "lr": 1e-4,
            "weight_decay": 0.0,
            "eval_every": 250,
            "checkpoint_every": 1000,
        }
    )
    nca_regime = Regime(name="nca", label="NCA", source=NCA)
    return Study(
        name="gpu",
        title="Synthetic pre-pre-training at 50M parameters and the paper's synthetic budget",
        model=PRESETS["50m"],
        regimes=(
            Regime(name="scratch", label="scratch"),
            Regime(name="c4", label="C4", source=hub("c4")),
            Regime(name="dyck", label="Dyck (nested, 64 types)", source=DyckSpec()),
            nca_regime,
            *reinit_arms(nca_regime, {"web": 3}),
            Regime(
                name="nca-shuffled",
                label="NCA, tokens shuffled",
                source=NCA.model_copy(update={"control": "shuffle_tokens"}),
                role="control",
                runs={"web": 3},
                ft=False,
            ),
            Regime(
                name="nca-low",
                label="NCA, lower band",
                source=NCA.model_copy(update={"band": (0.3, 0.5)}),
                role="complexity",
                checkpoints="ends",
                runs={"web": 3, "code": 3},
                ft=False,
            ),
            Regime(
                name="nca-2",
                label="NCA, 2 states",
                source=NCA.model_copy(update={"n_states": 2, "band": (0.3, 1.0)}),
                role="complexity",
                checkpoints="ends",
                runs={"web": 3, "code": 3},
                ft=False,
            ),
        ),
        domains=(
            Domain(name="web", label="OpenWebText", source=hub("openwebtext")),
            Domain(name="code", label="CodeParrot", source=hub("codeparrot")),
            Domain(name="math", label="OpenWebMath", source=hub("openwebmath"), qa=QaSpec(n_train=7000, n_test=1000)),
        ),
        seeds=paired_seeds(3),
        primary=Primary(treated="nca", control="scratch", domain="web"),
        ppt=ppt,
        pt=pt,
        ft=pt.model_copy(update={"steps": 400, "batch_size": 64, "lr": 1e-4, "checkpoints": "ends"}),
        deviations=(
            "50M parameters, not 400M to 1.6B; 0.5B language tokens, not 4B to 13B",
            "the pre-pre-training schedule ends with the budget (the released one is cut at the end of its warm-up)",
            "fine-tuning on generated arithmetic word problems, not GSM8K (set domains.math.qa.source to files:... for it)",
        ),
    )
