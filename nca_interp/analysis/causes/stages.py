"""The stages of the causes of one model, as parts that are kept one by one: which there are, what they cost, what they give."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.analysis.causes.ablation import Head, ablate
from nca_interp.analysis.causes.attribution import attribute
from nca_interp.analysis.causes.attribution_rows import attribution_rows, check_rows, checked_heads
from nca_interp.analysis.causes.composition import weight_rows
from nca_interp.analysis.causes.effects import Task
from nca_interp.analysis.causes.options import CausesOptions, Scope
from nca_interp.analysis.causes.parts import Kept, Part, minutes
from nca_interp.analysis.causes.random_sets import heads_by_layer, random_sets
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.causes.rows import (
    EDGE_HEADS,
    Scores,
    edge_rows,
    effect_rows,
    lens_rows,
    load_rows,
    patching_rows,
)
from nca_interp.analysis.causes.set_rows import held_against, set_rows, top_sets
from nca_interp.analysis.causes.table import Row
from nca_interp.analysis.causes.work import Work, speed_of
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.base import UserError, digest

WEIGHT_SECONDS = 0.35
"""Of a head's circuits, about."""
Tell = Callable[[float], None]


class Found(NamedTuple):
    """What was measured."""

    rows: list[Row]
    skipped: dict[str, str]
    """What does not apply, and why."""
    problems: list[str]
    """Stages that failed."""


class Stages:
    """All stages of one model."""

    def __init__(self, trunk: Trunk, tasks: list[Task], scores: Scores, options: CausesOptions) -> None:
        self.trunk, self.scores, self.options = trunk, scores, options
        self.scope = Scope(options, trunk.n_layers * trunk.n_heads)
        self.works = {task.name: Work(trunk, task, options, self.scope) for task in tasks}
        self.speed = speed_of(trunk, tasks[0])
        self.found = Found([], {}, [])
        self._attributed: dict[str, list[Row]] = {}

    def measure(self, kept: Kept, say: Callable[[str, float | None], None]) -> Found:
        """Every part that is not kept yet, what is left taking about as long as is said first."""
        parts = [part for part in self._parts() if part is not None]
        say(f"{minutes(kept.expect(parts))} for {len(parts)} parts", 0.0)
        for work in self.works.values():
            self._of_stimulus(work, kept)
        rows = self.found.rows
        tasks = [work.task for work in self.works.values()]
        rows += load_rows(rows, tasks, "attribution" if self.scope.ranked else "ablation")
        if self.scope.has("weights"):
            rows += self._attempt("weights", kept, self._weights())
        return self.found

    def _parts(self) -> Iterator[Part | None]:
        for work in self.works.values():
            yield self._attribution(work)
            yield self._ablation(work)
            yield self._knock_outs(work)
            yield from self._set_parts(work)
            yield self._lens(work)
            yield self._patching(work)
            yield self._edges(work)
        yield self._weights() if self.scope.has("weights") else None

    def _of_stimulus(self, work: Work, kept: Kept) -> None:
        name, found = work.name, self.found.rows
        self._attributed[name] = self._attempt(f"attribution on {name}", kept, self._attribution(work))
        effects = self._attempt(f"ablation on {name}", kept, self._ablation(work))
        effects += self._attempt(f"knock_outs on {name}", kept, self._knock_outs(work))
        order = list(work.task.metrics)
        found += sorted(effects, key=lambda row: order.index(row["metric"]))
        if self.scope.has("attribution"):
            found += self._attributed[name] + check_rows(
                [*self._attributed[name], *effects], self._groups(work, effects)
            )
        measured: list[Row] = []
        for part in self._set_parts(work):
            measured += self._attempt(f"top_heads on {name}", kept, part)
        tops = self._tops(work)
        complete = {row["at"] for row in measured}
        tops = {probe: top for probe, top in tops.items() if heads_by_layer(top) in complete}
        drawn = {top: random_sets(top, self.trunk.n_heads, self.scope.sets) for top in tops.values()}
        found += held_against(work.task, tops, drawn, measured)
        found += self._attempt(f"logit_lens on {name}", kept, self._lens(work))
        found += self._attempt("patching", kept, self._patching(work))
        found += self._attempt("edge", kept, self._edges(work))

    def _attempt(self, name: str, kept: Kept, part: Part | None) -> list[Row]:
        """The rows of a part; what it raises costs its own rows only."""
        if part is None:
            return []
        try:
            return kept.rows(part)
        except NotApplicable as reason:
            self.found.skipped[name] = str(reason)
        except UserError:
            raise
        except Exception as error:
            self.found.problems.append(f"{name}: {type(error).__name__}: {str(error).strip()} ({_place(error)})")
        return []

    def _is_asked(self, stage: str, work: Work) -> bool:
        return self.scope.has(stage) and work.name in self.scope.stimuli(stage)

    def _part(
        self,
        stage: str,
        work: Work,
        about: str,
        passes: float,
        scored: float,
        make: Callable[[Tell], list[Row]],
        **more: Any,
    ) -> Part:
        arguments = {"sequences": work.sequences, "metrics": list(work.task.metrics), **more}
        cost = work.seconds(self.speed, passes, scored)
        return Part(f"{stage}.{work.name}", f"{about}: {work.name}", cost, arguments, make)

    def _chosen(self, work: Work) -> list[Head]:
        """Heads that are ablated alone."""
        every = [(n, h) for n in range(self.trunk.n_layers) for h in range(self.trunk.n_heads)]
        if self.options.named:
            return self.options.named
        if self.scope.every:
            return every
        rows = self._attributed.get(work.name, [])
        if not rows:
            raise NotApplicable("heads are chosen by attribution, which there is none of")
        top, others = checked_heads(rows, rows[0]["metric"], self.options.checked)
        return sorted([*top, *others])

    def _count(self) -> int:
        if self.options.named:
            return len(self.options.named)
        heads = self.trunk.n_layers * self.trunk.n_heads
        return heads if self.scope.every else min(heads, 2 * self.options.checked)

    def _groups(self, work: Work, effects: list[Row]) -> dict[str, list[Head]]:
        """Heads among which attribution is compared with ablation."""
        if self.scope.ranked and self._attributed[work.name]:
            rows = self._attributed[work.name]
            top, others = checked_heads(rows, rows[0]["metric"], self.options.checked)
            return {"top heads": top, "random heads": others}
        return {"ablated heads": list(dict.fromkeys((r["layer"], r["head"]) for r in effects if r["site"] == "head"))}

    def _selection(self) -> dict[str, Any]:
        heads = self.options.heads
        return {
            "heads": "all"
            if self.scope.every
            else f"checked {self.options.checked}"
            if self.scope.ranked
            else list(heads)
        }

    def _attribution(self, work: Work) -> Part | None:
        if not (self._is_asked("attribution", work) or (self.scope.ranked and self._is_asked("ablation", work))):
            return None
        passes = 2.0 + 2 * len(work.task.metrics) + len(work.whole.batch.inputs) / work.sequences

        def make(tell: Tell) -> list[Row]:
            return attribution_rows(work.task, attribute(self.trunk, work.task, work.means))

        return self._part("attribution", work, "attribution of all heads", passes, 3.0, make)

    def _ablation(self, work: Work) -> Part | None:
        n, how = self._count(), self.options.how

        def make(tell: Tell) -> list[Row]:
            step, heads = _steps(self.trunk.n_layers * len(work.task.slices()), tell), self._chosen(work)
            means = work.means if how == "mean" else None
            found = ablate(self.trunk, work.task, how, step, knock_outs=False, heads=heads, means=means)
            return effect_rows(work.task, found, how)

        about = f"{n} heads ablated"
        part = self._part("ablation", work, about, 0.5 * n, n, make, how=how, **self._selection())
        return part if self._is_asked("ablation", work) else None

    def _knock_outs(self, work: Work) -> Part | None:
        n = 3 * self.trunk.n_layers

        def make(tell: Tell) -> list[Row]:
            step = _steps(self.trunk.n_layers * len(work.task.slices()), tell)
            return effect_rows(work.task, ablate(self.trunk, work.task, "zero", step, heads=()), self.options.how)

        part = self._part("knock_outs", work, "layers left out", 0.5 * n, n, make)
        return part if self._is_asked("knock_outs", work) else None

    def _tops(self, work: Work) -> dict[str, frozenset[Head]]:
        if not self._is_asked("top_heads", work):
            return {}
        names = self.options.probes or self.scores
        tops = top_sets(self.trunk, self.scores, self.options.k)
        return {name: tops[name] for name in tops if name in names}

    def _set_parts(self, work: Work) -> Iterator[Part]:
        """One part for each different top set."""
        for top in dict.fromkeys(self._tops(work).values()):
            drawn = random_sets(top, self.trunk.n_heads, self.scope.sets)
            sets = list(dict.fromkeys([top, *drawn.sets]))

            def make(tell: Tell, sets: list[frozenset[Head]] = sets) -> list[Row]:
                step = _steps(len(sets) * len(work.task.slices()), tell)
                return set_rows(self.trunk, work.task, sets, work.means, step)

            named = [heads_by_layer(s) for s in sets]
            part = self._part("top_heads", work, "top heads, random sets", 0.9 * len(sets), len(sets), make, sets=named)
            yield part._replace(name=f"{part.name}.{digest(named[0], 12)}")

    def _lens(self, work: Work) -> Part | None:
        part = self._part(
            "logit_lens",
            work,
            "logit lens",
            1.0,
            2 * self.trunk.n_layers,
            lambda tell: lens_rows(self.trunk, work.task),
        )
        return part if self._is_asked("logit_lens", work) else None

    def _patching(self, work: Work) -> Part | None:
        n = 2 * self.trunk.n_layers + self._count()

        def make(tell: Tell) -> list[Row]:
            step = _steps(self.trunk.n_layers * len(work.task.slices()), tell)
            return patching_rows(self.trunk, work.task, None if self.scope.every else self._chosen(work), step)

        part = self._part("patching", work, "patching", 0.5 * n, n, make, **self._selection())
        return part if self._patches("patching", work) else None

    def _edges(self, work: Work) -> Part | None:
        n = 2 * EDGE_HEADS**2
        part = self._part(
            "edges", work, "edges", 0.5 * n, n, lambda tell: edge_rows(self.trunk, work.task, self.scores, work.means)
        )
        return part if self._patches("edges", work) else None

    def _patches(self, stage: str, work: Work) -> bool:
        return self._is_asked(stage, work) and "repeated_token_loss" in work.task.metrics

    def _weights(self) -> Part:
        seconds = WEIGHT_SECONDS * self.trunk.n_layers * self.trunk.n_heads
        return Part("weights", "circuits of the weights", seconds, {}, lambda tell: weight_rows(self.trunk.model))


def _steps(total: int, tell: Tell) -> Callable[[], None]:
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        tell(done / total)

    return step


def _place(error: Exception) -> str:
    """File and line that raised, in this package where possible."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if Path(f.filename).is_relative_to(Path(__file__).parent)]
    return f"{Path((own or frames)[-1].filename).name}:{(own or frames)[-1].lineno}"
