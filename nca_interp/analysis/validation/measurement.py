"""Validation loss of checkpoints from elsewhere, and verdicts over regimes and seeds."""

from typing import Any

from nca_interp.measurement import Measurement


def cost(run: Any, options: Any) -> float:
    """Seconds that it takes, about: the rows through every checkpoint."""
    from nca_interp.analysis.stimuli.size import seconds
    from nca_interp.analysis.stimuli.subject import LONGEST

    return sum(seconds(run.checkpoint(step), options.rows * LONGEST) for step in run.steps) or 1.0


MEASUREMENT = Measurement(
    name="val-loss",
    about="Loss of checkpoints from elsewhere on the natural text (--tokens), and contrasts of their regimes over seeds.",
    order=5,
    by_request=frozenset({"study", "one", "pair", "series"}),
    applies="nca_interp.analysis.validation.study:applies",
    options="nca_interp.analysis.validation.study:Options",
    cost=cost,
    measure="nca_interp.analysis.validation.study:measure",
    tables="nca_interp.analysis.validation.study:tables",
    summary="nca_interp.analysis.validation.study:summary",
    section="nca_interp.report.sections.validation:section",
    columns={
        "val_losses": "run regime domain seed stage step tokens val_loss targets rows text rows_sha256:text",
        "val_loss_notes": "run note",
    },
)
