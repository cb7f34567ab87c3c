"""Validation loss of checkpoints from elsewhere, and verdicts over regimes and seeds."""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="val-loss",
    about="Loss of checkpoints from elsewhere on the natural text (--tokens), and contrasts of their regimes over seeds.",
    order=5,
    by_request=frozenset({"study", "one", "pair", "series"}),
    applies="nca_interp.analysis.validation.study:applies",
    options="nca_interp.analysis.validation.study:Options",
    measure="nca_interp.analysis.validation.study:measure",
    tables="nca_interp.analysis.validation.study:tables",
    summary="nca_interp.analysis.validation.study:summary",
    section="nca_interp.report.sections.validation:section",
    columns={
        "val_losses": "run regime domain seed stage step tokens val_loss targets rows text rows_sha256:text",
        "val_loss_notes": "run note",
    },
)
