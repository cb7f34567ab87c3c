"""What a model says on the user's own text."""

from typing import Any

from nca_interp.measurement import Measurement


def cost(run: Any, options: Any) -> float:
    """Seconds that it takes, about: one prompt of that length through every layer's lens."""
    from nca_interp.analysis.stimuli.size import seconds

    return seconds(run.last, 30 * options.tokens) if run.steps else 1.0


MEASUREMENT = Measurement(
    name="prompts",
    about="Your own text (--text FILE): loss, predictions, lens, patterns, what each part adds to the logits.",
    order=35,
    wanted="nca_interp.analysis.prompts.texts:wanted",
    applies="nca_interp.analysis.prompts.texts:applies",
    options="nca_interp.analysis.prompts.texts:Options",
    cost=cost,
    measure="nca_interp.analysis.prompts.study:measure",
    tables="nca_interp.analysis.prompts.study:tables",
    files="nca_interp.analysis.prompts.study:files",
    summary="nca_interp.analysis.prompts.study:summary",
    section="nca_interp.report.sections.prompts:section",
    columns={
        "prompts": "run regime domain seed stage step prompt:text position token text:text nll rank",
        "prompt_predictions": "run step prompt:text position place token text:text logit probability",
        "prompt_lens": "run step prompt:text position layer target target_text:text nll kl token text:text probability",
        "prompt_parts": "run step prompt:text position target target_text:text part:text layer head neuron value centred",
        "prompt_notes": "run step prompt:text note",
    },
)
