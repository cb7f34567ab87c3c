"""The circuit at work, and over training: what the report's player shows."""

from typing import Any

from nca_interp.measurement import Measurement


def cost(run: Any, options: Any) -> float:
    """Seconds that it takes, about: one sequence of each shown checkpoint."""
    from nca_interp.analysis.stimuli.size import seconds

    return sum(seconds(run.checkpoint(step), 500) for step in run.steps[: options.checkpoints]) or 1.0


MEASUREMENT = Measurement(
    name="player",
    about="Where every head looks in one sequence, what the model predicts, what it loses without the head: checkpoint by checkpoint.",
    order=50,
    needs=("probes",),
    cost=cost,
    measure="nca_interp.analysis.circuit_player.study:measure",
    tables="nca_interp.analysis.circuit_player.study:tables",
    files="nca_interp.analysis.circuit_player.files:files",
    options="nca_interp.analysis.circuit_player.study:PlayerOptions",
    columns={"step_effects": "run regime domain seed stage step tokens layer head metric value low high n"},
)
