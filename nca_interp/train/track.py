"""Following a run with TensorBoard, Weights & Biases or Trackio, through accelerate's trackers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from nca_interp.base import UserError
from nca_interp.config import suggest
from nca_interp.store import StudyDir
from nca_interp.train.run import RunConfig

TRACK = "NCA_INTERP_TRACK"
"""Names of trackers, separated by commas; `--track` sets it for the workers."""
TRACKERS = ("tensorboard", "wandb", "trackio")


def check(names: Iterable[str]) -> None:
    """UserError for a tracker that is unknown or not installed."""
    from accelerate.tracking import get_available_trackers

    available = {str(getattr(tracker, "value", tracker)) for tracker in get_available_trackers()}
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--track {name}: unknown tracker{suggest(name, TRACKERS)}")
        if name not in available:
            raise UserError(
                f"--track {name}: the package is not installed; install it with: pip install 'nca-interp[{name}]'"
            )


def asked() -> list[str]:
    """The trackers that were asked for."""
    return [name for name in os.environ.get(TRACK, "").split(",") if name]


@contextmanager
def trackers(study: StudyDir, config: RunConfig, main: bool) -> Iterator[list[Any]]:
    """Open trackers of one run, closed at the end: TensorBoard files in <study>/tensorboard/<run>, projects named after the study."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    names = asked() if main else []
    check(names)
    found = []
    try:
        for name in names:
            found.append(_open(LOGGER_TYPE_TO_CLASS[name], name, study, config))
        yield found
    finally:
        for tracker in found:
            tracker.finish()


def _open(kind: Any, name: str, study: StudyDir, config: RunConfig) -> Any:
    project = study.path.resolve().name
    if name == "tensorboard":
        tracker = kind(config.id, study.tensorboard)
    elif name == "wandb":
        tracker = kind(project, name=config.id, id=f"{project}-{config.id}", resume="allow", dir=study.path)
    else:
        tracker = kind(project, name=config.id, resume="allow")
    tracker.start()
    if name != "tensorboard":  # there it would be a second run beside the first
        tracker.store_init_configuration(config.model_dump(mode="json"))
    return tracker
