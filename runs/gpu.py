"""One data-centre GPU: a contrast at 50M parameters in a quarter of an hour, and a longer study with real corpora by streaming."""

from nca_interp.arms import published, swap_arms
from nca_interp.config import Domain, Primary, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS

GPT2 = TokenizerSpec(kind="hf", name="gpt2")
NCA = NcaSpec(tau=1e-3)


def hub(preset: str) -> TextSpec:
    """A corpus streamed from the Hugging Face hub, in GPT-2 tokens."""
    return TextSpec(source=f"hf:{preset}", tokenizer=GPT2)


MFU, PEAK, STARTED_SECONDS, TOKENS_SECONDS = 0.10, 989e12, 10, 150
"""What `gpu` is planned with, all assumed: share of the dense bf16 peak of an H200 that a run of it reaches, that peak in FLOP/s, the
start and end of each run (import, device, checkpoints), and making all token files."""


@run
def gpu() -> Study:
    """15 minutes of one H200, without a network: NCA against scratch at 50M parameters and two embedding scales, three seeds.

    12 layers, context 512; 12.3M synthetic and 6.6M language tokens an arm, Python sources of the installed packages as language. 15 runs,
    3.9e16 FLOPs. UNMEASURED: it is planned with 10 % of the stated peak of 989 TFLOP/s, 10 s to start each run and 150 s for token
    files, which makes 12 minutes; torch.compile is off, since compiling each run would take longer than it saves.

    Can conclude: whether, at 50M parameters, the sign of NCA minus scratch after this short budget depends on the scale of the
    embeddings (0.02, or N(0, 1) as published), as it does at 0.2M; whether heads that the synthetic stage grows appear at this size within 12M tokens.

    Cannot conclude: whether NCA helps a model that is trained to any useful loss: 6.6M tokens are an eighth of a token a parameter;
    anything on natural text; small effects (three seeds); how fast an H200 is.
    """
    pt = StageConfig(
        steps=200,
        batch_size=64,
        lr=1e-3,
        betas=(0.9, 0.98),
        eval_every=50,
        checkpoints="ends",
    )
    code = TextSpec(source="site:code", tokenizer=TokenizerSpec(vocab_size=8192), max_bytes=60_000_000)
    nca = Regime(name="nca", label="NCA", source=NcaSpec(grid=12, n_states=4, tau=1e-4, band=(0.4, 1.0)))
    scratch = Regime(name="scratch", label="scratch")
    model = PRESETS["50m"].model_copy(update={"n_ctx": 512})
    policies = {"published": published(model.d_model)}
    return Study(
        name="gpu",
        title="NCA against scratch at 50M parameters and two embedding scales",
        model=model,
        regimes=(scratch, nca, *swap_arms(scratch, policies), *swap_arms(nca, policies)),
        domains=(Domain(name="code", label="Python code", source=code),),
        seeds=paired_seeds(3),
        primary=Primary(treated="nca", control="scratch", domain="code"),
        ppt=pt.model_copy(update={"steps": 375, "eval_every": 75, "checkpoints": "log", "checkpoint_every": 125}),
        pt=pt,
        precision="bf16",
        compile="off",
        deviations=(
            "50M parameters, not 400M to 1.6B; 12M synthetic tokens, not 164M; 7M language tokens, not 4B to 13B",
            "sources of installed Python packages, not CodeParrot; NCA with 4 states, not 10",
        ),
    )


@run
def gpu_long() -> Study:
    """A day of one H200, with a network: 50M parameters, the paper's 164M synthetic tokens, 0.5B of language, real corpora.

    C4, OpenWebText, CodeParrot and OpenWebMath are streamed from the Hugging Face hub; all regimes and controls, re-initialisation,
    bands and alphabets, fine-tuning on generated problems, three seeds. 1.7e19 FLOPs, 24 hours at an assumed
    20 % of the stated peak: UNMEASURED.

    Can conclude: whether the paper's order of regimes holds at 50M parameters at the paper's synthetic budget on the paper's kinds of text;
    whether shuffled tokens do as well; which re-initialised module type costs most on web text; what two further complexities do.

    Cannot conclude: anything at 400M to 1.6B parameters, or after 4B to 13B tokens; small effects (three seeds); how the result depends
    on the scale of the embeddings, which is 0.02 here throughout.
    """
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
        name="gpu-long",
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
