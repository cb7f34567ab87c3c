"""How far was the synthetic task learned?"""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="inference",
    about="Did a model pre-pre-trained on NCA infer its rules? Predictions of new rules against ideal predictors.",
    order=40,
    applies="nca_interp.analysis.inference.study:applies",
    measure="nca_interp.analysis.inference.study:measure",
    tables="nca_interp.analysis.inference.study:tables",
    summary="nca_interp.analysis.inference.study:summary",
    section="nca_interp.report.sections.learning:section",
    columns={
        "inference": "run regime domain seed stage step rules band_low band_high predictor frame quantity value low high n",
        "learned": "run regime domain seed stage step verdict inferred uses_context accuracy rival rival_accuracy effect low high n "
        "oracle_accuracy teacher_accuracy first_frame last_frame slope slope_low slope_high gain gain_low gain_high swap swap_low swap_high "
        "shuffle shuffle_low shuffle_high sentence",
        "learning": "run regime domain seed stage step tokens predictor quantity value low high n",
    },
)
