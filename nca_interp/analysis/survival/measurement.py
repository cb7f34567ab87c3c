"""What becomes of the heads that the synthetic stage grew?"""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="survival",
    about="Heads that pre-pre-training grew, after the swap: scores, norms, effects, and which part of them goes first.",
    order=26,
    needs=("probes",),
    applies="nca_interp.analysis.survival.study:applies",
    measure="nca_interp.analysis.survival.study:measure",
    tables="nca_interp.analysis.survival.tables:tables",
    section="nca_interp.report.sections.survival:section",
    columns={
        "survival": "run regime domain seed stage step tokens ppt_run probe layer head quantity value low high start bound",
        "fates": "run regime domain seed stage ppt_run probe layer head start level end lost_state:text lost_after lost_by "
        "used_state:text used_after used_by effect bound others fate:text first_part:text sentence",
        "fate_seeds": "domain regime ppt_regime:text probe seeds heads lost kept used agree verdict",
    },
)
