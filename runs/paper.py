"""The protocol of arXiv 2603.10055 at 400M, 600M and 1.6B parameters, with every known conflict as a named switch.

`nca-interp train paper --set switches.tau=1e-3`; `published-code` and `published-paper` choose one side throughout.
`python runs/paper.py` writes docs/published_protocol.md from the docstrings below.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import Field

from nca_interp.base import Frozen
from nca_interp.config import Domain, ModelConfig, Regime, StageConfig, Study, paired_seeds, reinit_arms
from nca_interp.data.specs import DyckSpec, NcaSpec, QaSpec, TextSpec, TokenizerSpec
from nca_interp.discover import run
from nca_interp.model.presets import PRESETS

GPT2 = TokenizerSpec(kind="hf", name="gpt2")
TOKENS_PPT = 163_840_000


def conflict(ours: Any, *, paper: Any = None, code: Any = None, **legal: Any) -> Any:
    """A switch: our value, the paper's and the released code's (None: it does not say)."""
    return Field(default=ours, json_schema_extra={"paper": paper, "code": code}, **legal)


class Switches(Frozen):
    """Where the paper, its released code and its blog disagree, or where we differ from both."""

    batch: Literal[16, 32] = conflict(32, paper=16, code=32)
    """Sequences a step of pre-pre-training. The budget stays 164M tokens: 10,000 or 5,000 steps. Ours: the code's; its
    epoch 10, the checkpoint that was used, then is 164M tokens."""
    schedule: Literal["cut", "complete"] = conflict("cut", paper="complete", code="cut")
    """Pre-pre-training's cosine with 10 % warm-up. `cut`: of 50,000 steps, of which 164M tokens are the first 5,000, the end of the
    warm-up, so no decay is ever seen. `complete`: it ends with the budget. Ours: the checkpoint that was used."""
    tau: float = conflict(1e-4, paper=1e-3, code=1e-4, ge=0)
    """Sampling temperature of the automata. Ours: the launcher's, which made the published numbers."""
    dynamics: Literal["paper", "release"] = conflict("release", paper="paper", code="release")
    """Three facts that belong together, for the band's thresholds move with them. `paper`: uniform initial cells, 614 parameters,
    gzip of uint16. `release`: cells from one softmax of normal logits, the convolution sees the state axis wrapped (686 parameters),
    gzip of int32. Ours: the one whose thresholds the paper's bands are."""
    rules: Literal["fresh", "fixed"] = conflict("fixed", paper="fresh", code="fixed")
    """`fresh`: a new rule for every sequence. `fixed`: the same 16,000 rules in all epochs from new initial states, which a
    precedence slip in the code causes. Ours: what was run."""
    loss_mask: Literal["first_frame", "none"] = conflict("first_frame", paper="none", code="first_frame")
    """Whether the first frame of a sequence, whose rule cannot be known yet, is left out of the loss. Ours: left out."""
    tied: bool = conflict(False, paper=True, code=False)
    """Whether the unembedding is the embedding. Ours: the default of the code."""
    embedding: Literal["large", "small"] = conflict("large", code="large")
    """Fresh embeddings. `large`: N(0, 1) as torch draws them, and an untied unembedding of standard deviation 1/sqrt(3 d_model),
    that of torch's uniform default; a tied one is drawn `small`. `small`: N(0, 0.02^2) like the body. Ours: the code's, which the
    scratch arm depends on."""
    vocab_rows: Literal["exact", "padded"] = conflict("exact", code="padded")
    """Rows of embedding and unembedding in pre-pre-training (10,002 are used) and on code (50,257). `padded`: 64,000. Ours: exact;
    unused rows only add a softmax floor that training removes, and cost time."""
    decay: Literal["matrices", "all"] = conflict("matrices", code="all")
    """What AdamW decays. Ours: matrices; decay of norm gains at 1e-4 hardly matters and is not the field's habit."""
    accumulation: Literal["mean", "summed"] = conflict("mean", code="summed")
    """Gradients of micro-batches (2 in pre-pre-training, 32 after). `summed` is reproduced exactly by dividing clip and epsilon by
    their number, since AdamW does not see the scale otherwise. Ours: mean, so that the split changes nothing."""
    pt_values: Literal["single", "per-domain"] = conflict("per-domain", paper="single", code="per-domain")
    """Learning rate, warm-up and decay of pre-training. `single`: 5e-4, 10 %, 1e-4 everywhere (Table 2). `per-domain`: code with
    2e-4, 750 steps and no decay (README, launcher). Ours: the finer."""
    dyck: Literal["nested", "shuffle"] = conflict("nested", code="nested")
    """The paper does not state its Dyck language. `nested`: 64 types, depth 16, p_open 0.5, the defaults of the code. `shuffle`:
    64-shuffle-Dyck, depth 8, p_open 0.51, of Hu et al. (arXiv 2502.19249). Ours: the code's."""


class Missing(NamedTuple):
    """A known difference that is no switch."""

    what: str
    paper: str
    code: str
    ours: str
    why: str


NOT_SWITCHES = (
    Missing("precision", "bf16, as the code's flag says", "fp16 with a gradient scaler", "bf16 autocast, fp32 weights",
            "a scaler skips steps by its own hidden state and has no CPU form; bf16 has the range of fp32"),
    Missing("attention dropout", "not stated", "0.1", "0",
            "the masks would depend on how a batch is split over devices; every other result does not"),
    Missing("bias of the NCA head", "not stated", "yes", "no",
            "a Llama directory that transformers opens has no place for it; it is dropped at the swap anyway"),
    Missing("optimiser of pre-pre-training", "no decay (Table 2)", "Adam", "AdamW without decay", "the same update"),
    Missing("C4 with 1.6B tokens, and without new embeddings", "yes", "no launcher", "164M tokens, new embeddings",
            "every regime of a study has one budget; a study of its own with ppt.steps=50000 gives the longer arm, regimes.c4.swap.embed=keep keeps the rows"),
    Missing("splits of the corpora", "unreleased", "unreleased", "by document hash", "nothing to reproduce"),
    Missing("validation", "not stated", "whole split, or the first 4,800 sequences", "4,800 sequences, the same for every regime",
            "paired comparisons need equal rows"),
    Missing("widths at 400M and 600M", "not stated", "not released", "24 layers of 1024 and 1280",
            "the shape of the 1.6B model at those sizes"),
    Missing("seeds", "4, pairing not stated", "one in each launcher", "4, paired", "paired seeds need fewer runs"),
    Missing("GSM8K decoding", "T 0.4, top-p 0.95 (README)", "T 0.6, top-p 1.0 (launcher)", "greedy exact match",
            "no decision between two samplers is needed"),
    Missing("GSM8K data", "GSM8K", "GSM8K, examples drawn from its test split", "generated problems unless domains.math.qa.source names files",
            "needs a download; set it to files:..."),
    Missing("BigBench-Lite", "pass@2 (blog), pass@4 (press)", "evaluator returns 1.0 for everything", "not evaluated",
            "the released evaluator cannot have made the published numbers"),
    Missing("README: 500 trajectories a rule", "-", "500 is the number of updates an epoch", "the code", "the README misnames it"),
    Missing("label of the OpenWebMath gain", "-5.2 %", "-5.07 % from its own curve", "the curve", "arithmetic"),
    Missing("speed-up against C4 at 1.6B tokens", "1.4x (text), 1.5x (label)", "1.47x by the page's formula", "the formula", "arithmetic"),
    Missing("gzip ratio of the corpora", "OpenWebText 60 to 70 %, CodeParrot 32 % (press)", "62 to 70 %, 32 % (notebooks)",
            "measured on our own split", "what was serialised is not stated"),
    Missing("order of the authors", "Lee first (arXiv)", "Han first (blog)", "arXiv's", "the one that can be cited"),
)  # fmt: skip


def side(name: Literal["paper", "code"], **changes: Any) -> Switches:
    """All switches on one side; where it does not say, ours."""
    values = {field: extra(field)[name] for field in Switches.model_fields}
    return Switches(**{field: value for field, value in values.items() if value is not None} | changes)


def extra(field: str) -> dict[str, Any]:
    """`{"paper": ..., "code": ...}` of a switch."""
    found = Switches.model_fields[field].json_schema_extra
    assert isinstance(found, dict)
    return found


OURS, PAPER, CODE = Switches(), side("paper"), side("code")


def pre_pre_training(s: Switches) -> StageConfig:
    """164M tokens with a constant budget whatever the batch."""
    steps = TOKENS_PPT // 1024 // s.batch
    return StageConfig(
        steps=steps,
        horizon=10 * steps if s.schedule == "cut" else None,
        warmup=0.1,
        batch_size=s.batch,
        micro_batch=8,
        lr=1e-4,
        min_lr_ratio=0.0,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        eps=1e-8 / (2 if s.accumulation == "summed" else 1),
        clip=None,
        vocab_rows=64_000 if s.vocab_rows == "padded" else None,
        first_frame_targets=s.loss_mask == "none",
        decay_norms=s.decay == "all",
        eval_every=500,
        checkpoint_every=1000,
    )


def pre_training(s: Switches) -> StageConfig:
    """9.0B tokens of OpenWebText."""
    parts = 32 if s.accumulation == "summed" else 1
    return StageConfig(
        steps=17_200,
        batch_size=512,
        micro_batch=8,
        lr=5e-4,
        warmup=0.1,
        min_lr_ratio=0.0,
        weight_decay=1e-4,
        betas=(0.9, 0.999),
        eps=1e-8 / parts,
        clip=1.0 / parts,
        decay_norms=s.decay == "all",
        eval_every=100,
        checkpoint_every=2000,
    )


def hub(preset: str) -> TextSpec:
    """A corpus streamed from the Hugging Face hub, in GPT-2 tokens."""
    return TextSpec(source=f"hf:{preset}", tokenizer=GPT2)


def protocol(preset: str, s: Switches, name: str | None = None) -> Study:
    """The four regimes of the paper at one model size."""
    nca = NcaSpec(variant=s.dynamics, tau=s.tau, n_rules=16_000 if s.rules == "fixed" else None)
    hu = DyckSpec(variant="shuffle", max_depth=8, p_open=0.51)
    pt = pre_training(s)
    code = pt.model_copy(update={"steps": 24_000, "vocab_rows": 64_000 if s.vocab_rows == "padded" else None})
    if s.pt_values == "per-domain":
        code = code.model_copy(update={"lr": 2e-4, "warmup": 750 / 24_000, "weight_decay": 0.0})
    nca_regime = Regime(name="nca", label="NCA", source=nca)
    return Study(
        name=name or f"paper-{preset.replace('.', '-')}",
        title=f"arXiv 2603.10055 at {preset} parameters",
        model=network(preset, s),
        regimes=(
            Regime(name="scratch", label="scratch"),
            Regime(name="c4", label="C4", source=hub("c4")),
            Regime(name="dyck", label="Dyck", source=hu if s.dyck == "shuffle" else DyckSpec()),
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
                pt=pt.model_copy(update={"steps": 8_000}),
                qa=QaSpec(n_train=7000, n_test=1000),
            ),
            Domain(
                name="code",
                label="CodeParrot",
                source=hub("codeparrot"),
                pt=code,
            ),
        ),
        seeds=paired_seeds(4),
        ppt=pre_pre_training(s),
        pt=pt,
        ft=pt.model_copy(update={"steps": 150, "lr": 1e-5, "checkpoints": "ends"}),
        val_rows=4800,
        deviations=tuple(deviations(s)),
    )


def network(preset: str, s: Switches) -> ModelConfig:
    """The model of a size with the asked embeddings."""
    model = PRESETS[preset]
    large = (
        {"embed_std": 1.0, "unembed_std": (3 * model.d_model) ** -0.5} if s.embedding == "large" and not s.tied else {}
    )
    return model.model_copy(update={"tied": s.tied, **large})


def deviations(s: Switches) -> Iterator[str]:
    """What a study with these switches has that the paper or its code has not, one sentence each."""
    for field in Switches.model_fields:
        value, says = getattr(s, field), extra(field)
        others = [f"{who}: {says[who]}" for who in ("paper", "code") if says[who] not in (None, value)]
        if others:
            yield f"{field} is {value} ({', '.join(others)})"
    for missing in NOT_SWITCHES:
        yield f"{missing.what}: {missing.ours} (paper: {missing.paper}; code: {missing.code})"


@run
def paper_400m(switches: Switches = OURS) -> Study:
    """The paper's protocol at 400M parameters (width not published: 24 layers of d_model 1024).

    The four regimes, three re-initialisations, three bands, web, math and code, four paired seeds; every conflict of the accounts is a
    switch (docs/published_protocol.md). Fresh embeddings are N(0, 1), as released, for scratch too.

    Can conclude: whether NCA beats scratch, C4 and Dyck at 400M under our reading of the protocol; what re-initialised attention,
    MLP or norms cost; which of three bands does best on code and on web text.

    Cannot conclude: whether the published sign is the scale of the embeddings (`--set switches.embedding=small` is the
    other side, to be run beside it); anything at the sizes that it does not train; which head or circuit does it, without the
    analysis; differences that four seeds cannot resolve (--dry-run says which). UNMEASURED: no cluster was at hand.
    """
    return protocol("400m", switches)


@run
def paper_600m(switches: Switches = OURS) -> Study:
    """The paper's protocol at 600M parameters (width not published: 24 layers of d_model 1280).

    The four regimes, three re-initialisations, three bands, web, math and code, four paired seeds; every conflict of the accounts is a
    switch (docs/published_protocol.md). Fresh embeddings are N(0, 1), as released, for scratch too.

    Can conclude: whether NCA beats scratch, C4 and Dyck at 600M under our reading of the protocol; what re-initialised attention,
    MLP or norms cost; which of three bands does best on code and on web text.

    Cannot conclude: whether the published sign is the scale of the embeddings (`--set switches.embedding=small` is the
    other side, to be run beside it); anything at the sizes that it does not train; which head or circuit does it, without the
    analysis; differences that four seeds cannot resolve (--dry-run says which). UNMEASURED: no cluster was at hand.
    """
    return protocol("600m", switches)


@run
def paper(switches: Switches = OURS) -> Study:
    """The paper's protocol at 1.6B parameters, our reading of its conflicts: 24 layers, 32 heads, d_model 2048.

    The four regimes, three re-initialisations, three bands, web, math and code, four paired seeds; every conflict of the accounts is a
    switch (docs/published_protocol.md). Fresh embeddings are N(0, 1), as released, for scratch too.

    Can conclude: whether the published gains over scratch, C4 and Dyck come about again at the published size; what re-initialised
    attention, MLP or norms cost; which of three bands does best on code and on web text.

    Cannot conclude: whether the published sign is the scale of the embeddings (`--set switches.embedding=small` is the
    other side, to be run beside it); anything at the sizes that it does not train; which head or circuit does it, without the
    analysis; differences that four seeds cannot resolve (--dry-run says which). UNMEASURED: no cluster was at hand.
    """
    return protocol("1.6b", switches)


@run
def published_code(switches: Switches = CODE) -> Study:
    """The paper's protocol at 1.6B parameters as its released code runs, wherever the two disagree.

    The four regimes, three re-initialisations, three bands, web, math and code, four paired seeds; every conflict of the accounts is a
    switch (docs/published_protocol.md). Fresh embeddings are N(0, 1), as released, for scratch too.

    Can conclude: whether the released code, as it runs, gives the published gains.

    Cannot conclude: whether a difference to `published-paper` is due to one switch: all are turned at once; and what `paper` cannot:
    whether the published sign is the scale of the embeddings (`--set switches.embedding=small` is the
    other side, to be run beside it); anything at the sizes that it does not train; which head or circuit does it, without the
    analysis; differences that four seeds cannot resolve (--dry-run says which). UNMEASURED: no cluster was at hand.
    """
    return protocol("1.6b", switches, "published-code")


@run
def published_paper(switches: Switches = PAPER) -> Study:
    """The paper's protocol at 1.6B parameters as its text says, wherever the two disagree.

    The four regimes, three re-initialisations, three bands, web, math and code, four paired seeds; every conflict of the accounts is a
    switch (docs/published_protocol.md). Embeddings are tied, as the text says, and then N(0, 0.02^2).

    Can conclude: whether the protocol, as the text states it, gives the published gains.

    Cannot conclude: whether a difference to `published-code` is due to one switch: all are turned at once; anything about N(0, 1)
    embeddings, which the released code draws; anything at the sizes that it does not train; which head or circuit does it, without the
    analysis; differences that four seeds cannot resolve (--dry-run says which). UNMEASURED: no cluster was at hand.
    """
    return protocol("1.6b", switches, "published-paper")


PAGE = """# The published protocol, and what differs from it by default

Recipes `paper`, `paper-600m`, `paper-400m` follow our reading of arXiv 2603.10055; `published-code` and `published-paper` take one
side of every conflict. A switch is changed with `--set`, for example
`nca-interp train paper --set switches.tau=1e-3 --set switches.rules=fresh --dry-run`. A dash: it does not say; the recipes then use ours.
Every regime keeps the embeddings that `embedding` says; other scales and draws are swap policies ([swap.md](swap.md)).
This page is written by `python runs/paper.py` from the recipe itself.

## Switches

| `switches.` | ours | paper | released code | what it is, and why ours |
|---|---|---|---|---|
{switches}

## Differences that are no switch

| what | paper | released code | ours | why |
|---|---|---|---|---|
{missing}
"""


def page() -> str:
    """docs/published_protocol.md."""
    rows = []
    for name, field in Switches.model_fields.items():
        paper, code = ("-" if extra(name)[who] is None else extra(name)[who] for who in ("paper", "code"))
        rows.append(
            f"| `{name}` | {field.default} | {paper} | {code} | {' '.join((field.description or '').split())} |"
        )
    missing = [f"| {' | '.join(item)} |" for item in NOT_SWITCHES]
    return PAGE.format(switches="\n".join(rows), missing="\n".join(missing))


if __name__ == "__main__":
    from pathlib import Path

    Path(__file__).parent.parent.joinpath("docs/published_protocol.md").write_text(page())
