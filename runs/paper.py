"""The protocol of arXiv 2603.10055 as its text and released code state it, at 400M, 600M and 1.6B parameters."""

from nca_interp.config import Domain, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS

GPT2 = TokenizerSpec(kind="hf", name="gpt2")
PPT = StageConfig(
    # the 164M-token checkpoint is epoch 10 of 100: the end of warm-up of a 50,000-step cosine
    steps=5_000,
    horizon=50_000,
    warmup=0.1,
    batch_size=32,
    micro_batch=8,
    lr=1e-4,
    min_lr_ratio=0.0,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    clip=None,
    eval_every=500,
    checkpoint_every=1000,
)
PT = StageConfig(
    steps=17_200,
    batch_size=512,
    micro_batch=8,
    lr=5e-4,
    warmup=0.1,
    min_lr_ratio=0.0,
    weight_decay=1e-4,
    betas=(0.9, 0.999),
    clip=1.0,
    eval_every=100,
    checkpoint_every=2000,
)
DEVIATIONS = (
    "no attention dropout (the released code uses 0.1)",
    "bf16 autocast instead of fp16 with a gradient scaler",
    "10,002 NCA rows instead of 64,000; the NCA head has no bias",
    "gradients are those of the mean over supervised tokens (the released code sums micro-batch means, so its clip is tighter)",
    "OpenWebText is split by document hash (the authors' split is unreleased); CodeParrot and OpenWebMath likewise",
    "Dyck is nested with 64 types and depth 16, the released defaults (the paper's choice is not stated)",
    "AdamW without decay in pre-pre-training (the released code uses Adam)",
    "fine-tuning on generated arithmetic word problems unless domains.math.qa.source names GSM8K files",
)


def hub(preset: str) -> TextSpec:
    """A corpus streamed from the Hugging Face hub, in GPT-2 tokens."""
    return TextSpec(source=f"hf:{preset}", tokenizer=GPT2)


def protocol(preset: str, n_rules: int | None = 16_000) -> Study:
    """The four regimes of the paper at one model size, with the released code's NCA and its 16,000 rules for all epochs."""
    nca = NcaSpec(variant="release", tau=1e-4, n_rules=n_rules)
    nca_regime = Regime(name="nca", label="NCA", source=nca)
    return Study(
        name=f"paper-{preset.replace('.', '-')}",
        title=f"arXiv 2603.10055 at {preset} parameters",
        model=PRESETS[preset].model_copy(update={"embed_std": 1.0}),
        regimes=(
            Regime(name="scratch", label="scratch"),
            Regime(name="c4", label="C4", source=hub("c4")),
            Regime(name="dyck", label="Dyck", source=DyckSpec()),
            nca_regime,
            *reinit_arms(nca_regime, {"web": 4, "code": 4}, "fresh"),
            *(
                Regime(
                    name=f"nca-{lo}-{hi}",
                    label=f"NCA, band {lo}-{hi} %",
                    source=nca.model_copy(update={"band": (lo / 100, hi / 100)}),
                    role="complexity",
                    checkpoints="ends",
                    ft=False,
                )
                for lo, hi in ((20, 30), (30, 40), (40, 50))
            ),
        ),
        domains=(
            Domain(name="web", label="OpenWebText", source=hub("openwebtext")),
            Domain(
                name="math",
                label="OpenWebMath",
                source=hub("openwebmath"),
                pt=PT.model_copy(update={"steps": 8_000}),
                qa=QaSpec(n_train=7000, n_test=1000),
            ),
            Domain(
                name="code",
                label="CodeParrot",
                source=hub("codeparrot"),
                pt=PT.model_copy(update={"steps": 24_000, "lr": 2e-4, "warmup": 750 / 24_000, "weight_decay": 0.0}),
            ),
        ),
        seeds=paired_seeds(4),
        ppt=PPT,
        pt=PT,
        ft=PT.model_copy(update={"steps": 150, "lr": 1e-5, "checkpoints": "ends"}),
        val_rows=4800,
        deviations=DEVIATIONS,
    )


@run
def paper_400m() -> Study:
    """The paper's protocol at 400M parameters (width not published: 24 layers of d_model 1024)."""
    return protocol("400m")


@run
def paper_600m() -> Study:
    """The paper's protocol at 600M parameters (width not published: 24 layers of d_model 1280)."""
    return protocol("600m")


@run
def paper() -> Study:
    """The paper's protocol at 1.6B parameters: 24 layers, 32 heads, d_model 2048."""
    return protocol("1.6b")


@run
def paper_fresh() -> Study:
    """The same with a new rule for every sequence, as the paper's text has it, instead of the code's 16,000 rules."""
    study = protocol("1.6b", n_rules=None)
    return study.model_copy(update={"name": "paper-fresh", "title": f"{study.title}, fresh rules"})
