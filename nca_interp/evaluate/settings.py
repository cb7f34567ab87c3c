"""How a checkpoint is evaluated, and what cannot be had: said before anything is opened or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nca_interp.base import UserError
from nca_interp.evaluate.sampling import SAMPLINGS, Sampling
from nca_interp.evaluate.scores import check_k
from nca_interp.evaluate.sources import Loaded, Wanted
from nca_interp.evaluate.task import Benchmark

INSTALL = "pip install 'nca-interp[eval]'"


@dataclass(frozen=True)
class Settings:
    """How a checkpoint is evaluated."""

    wanted: Sequence[Wanted]
    examples: dict[str, str] = field(default_factory=dict)
    shots: int = 0
    sampling: str = "greedy"
    samples: int = 1
    ks: Sequence[int] = (1,)
    limit: int | None = None
    problems: int = 200
    seed: int = 0
    batch: int = 64
    run_code: bool = False
    device: str = "cpu"
    dtype: str = "float32"
    tokenizer: Path | None = None


def require_harness() -> None:
    """UserError unless lm-evaluation-harness is installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        raise UserError(f"tasks: lm-evaluation-harness is not installed; {INSTALL}") from None


def check(settings: Settings) -> None:
    """UserError for settings that cannot be had: before anything is opened, generated or written."""
    require_harness()
    check_k(settings.ks, settings.samples)
    drawn = {
        sampling_of(settings, w.benchmark).temperature > 0
        for w in settings.wanted
        if w.benchmark and w.benchmark.kind != "choose"
    }
    if settings.samples > 1 and False in drawn:
        raise UserError(
            f"samples: {settings.samples} greedy answers are all the same; legal: 1, or --sampling {', '.join(n for n in SAMPLINGS if n != 'greedy')}, published"
        )
    coded = [w.name for w in settings.wanted if w.benchmark is not None and w.benchmark.kind == "code"]
    if coded and not settings.run_code:
        raise UserError(
            f"tasks: {coded[0]} is scored by running programs that the model wrote; add --run-generated-code (they run in a sandbox), or leave it out"
        )
    if coded:
        from nca_interp.evaluate.sandbox import sandbox

        sandbox()


def sampling_of(settings: Settings, own: Benchmark | None) -> Sampling:
    """Temperature and nucleus of a task; `published`: each as arXiv 2603.10055 documents it."""
    name = settings.sampling
    return SAMPLINGS[(own.sampling if own else "paper") if name == "published" else name]


def load_all(settings: Settings) -> list[Loaded]:
    """The problems of our benchmarks; UserError for files without an answer key and what the hub does not give."""
    from nca_interp.evaluate.sources import load

    return [
        load(w, settings.examples.get(w.benchmark.name, ""), settings.shots, settings.problems, settings.seed)
        for w in settings.wanted if w.benchmark is not None
    ]  # fmt: skip
