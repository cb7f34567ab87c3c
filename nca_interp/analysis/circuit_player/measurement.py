"""The circuit at work, and over training: what the report's player shows."""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="player",
    about="Where every head looks in one sequence, what the model predicts, what it loses without the head: checkpoint by checkpoint.",
    order=50,
    needs=("probes",),
    measure="nca_interp.analysis.circuit_player.study:measure",
    tables="nca_interp.analysis.circuit_player.study:tables",
    files="nca_interp.analysis.circuit_player.files:files",
    options="nca_interp.analysis.circuit_player.study:PlayerOptions",
    columns={"step_effects": "run regime domain seed stage step tokens layer head metric value low high n"},
)
