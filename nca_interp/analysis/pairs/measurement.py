"""Which activations carry what tells two prompts apart?"""

from typing import Any

from nca_interp.measurement import Measurement


def cost(run: Any, options: Any) -> float:
    """Seconds that it takes, about: a pass for every patch, of each layer at three sites of each position and of each head; short prompts
    fill a matrix product badly, so that half a pass takes as long as three of a long text."""
    from nca_interp.analysis.stimuli.size import seconds
    from nca_interp.base import UserError
    from nca_interp.model.checkpoint import load_config

    try:
        text = load_config(run.last).get_text_config() if run.steps else None
    except UserError:
        text = None
    if text is None:
        return 1.0
    layers, heads = (int(getattr(text, name, None) or 1) for name in ("num_hidden_layers", "num_attention_heads"))
    length = max(2, len(options.clean) // 4)
    return seconds(run.last, layers * (3 * length + heads) * length * 3)


MEASUREMENT = Measurement(
    name="pairs",
    about="A pair of prompts: activation and path patching from the clean to the corrupted one.",
    order=36,
    wanted="nca_interp.analysis.pairs.pair:wanted",
    flags={"clean": "clean", "corrupt": "corrupt", "answer": "answer", "wrong": "wrong"},
    applies="nca_interp.analysis.prompts.texts:applies",
    options="nca_interp.analysis.pairs.pair:Options",
    cost=cost,
    measure="nca_interp.analysis.pairs.study:measure",
    tables="nca_interp.analysis.pairs.study:tables",
    summary="nca_interp.analysis.pairs.study:summary",
    section="nca_interp.report.sections.pairs:section",
    columns={
        "prompt_pairs": "run regime domain seed stage step clean:text corrupt:text answer:text wrong:text quantity:text unit clean_value "
        "corrupt_value clean_probability corrupt_probability note",
        "pair_tokens": "run step position clean:text corrupt:text",
        "patches": "run regime domain seed stage step site layer position head from_layer from_head value recovery",
    },
)
