"""nca-interp: does pre-pre-training on synthetic data help a language model, and which parts carry it?

Names that definition files and notebooks use are loaded on first access, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # `typing` itself is imported later, from a safe path
if TYPE_CHECKING:
    from typing import Any

    from nca_interp.discover import report as report

_EXPORTS = {
    "run": "nca_interp.discover",
    "report": "nca_interp.report",
    "table": "nca_interp.report.frames",
    "Study": "nca_interp.config",
    "Regime": "nca_interp.config",
    "Domain": "nca_interp.config",
    "ModelConfig": "nca_interp.config",
    "StageConfig": "nca_interp.config",
    "Seeds": "nca_interp.config",
    "probe": "nca_interp.analysis.probing.probe",
    "repeated_tokens": "nca_interp.analysis.stimuli.base",
    "natural": "nca_interp.analysis.stimuli.base",
    "nca_frames": "nca_interp.analysis.stimuli.streams",
    "dyck": "nca_interp.analysis.stimuli.streams",
    "Measurement": "nca_interp.measurement",
    "Shown": "nca_interp.measurement",
    "keep": "nca_interp.analysis.cache",
    "kept": "nca_interp.analysis.cache",
    "analyze": "nca_interp.analysis.probing.engine",
    "rule_inference": "nca_interp.analysis.inference.inference",
    "load_model": "nca_interp.model.checkpoint",
    "to_transformer_lens": "nca_interp.analysis.causes.transformer_lens",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_EXPORTS[name]), name)
