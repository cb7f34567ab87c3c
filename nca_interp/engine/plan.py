"""The plan of a study: which token files, runs and analyses it needs, in which order, and what they cost."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from nca_interp.analysis.collection.collection import Collection as Runs
from nca_interp.analysis.collection.collection import planned
from nca_interp.analysis.collection.run import Run
from nca_interp.base import UserError
from nca_interp.config import Study
from nca_interp.engine.builder import Builder
from nca_interp.engine.graph import Job, MeasureJob, Plan
from nca_interp.engine.vocabulary import vocab
from nca_interp.graft import rule_of
from nca_interp.measurement import Measurement, measurements, resolve
from nca_interp.train.run import RunConfig


def make_plan(
    study: Study,
    precision: Literal["fp32", "bf16"],
    regime: str | None = None,
    domain: str | None = None,
    seed: int | None = None,
    analyze: bool = True,
) -> Plan:
    """The jobs of a study, or only those of one regime, domain or seed index and what these need; `analyze`: with what
    is always measured of its runs."""
    regimes = [study.regime(regime)] if regime else list(study.regimes)
    domains = [study.domain(domain)] if domain else list(study.domains)
    if seed is not None and not 0 <= seed < len(study.seeds):
        raise UserError(f"--seed: {seed}; legal: 0 to {len(study.seeds) - 1}")
    _check_rules(study)
    builder = Builder(study, precision)
    for index in range(len(study.seeds)):
        for r in regimes:
            for d in domains:
                wanted = len(study.seeds) if r.runs is None else r.runs.get(d.name, 0)
                if index < wanted and seed in (None, index):
                    builder.add_run(r, d, index)
    if not builder.jobs:
        raise UserError(
            f"nothing to run: regime {regime or 'any'}, domain {domain or 'any'}, seed {seed} is not in the recipe"
        )
    plan = Plan(study, list(builder.jobs.values()))
    if analyze:
        plan.jobs.extend(measure_jobs([planned(run) for run in plan.runs], to_train=True))
    return plan


def analysis_plan(
    collection: Runs, asked: Collection[str] = (), options: Mapping[str, Mapping[str, Any]] | None = None,
    *, only: bool = False,
) -> Plan:  # fmt: skip
    """What is to be measured of every finished run of a collection (see `measure_jobs`); runs not finished are left out."""
    finished = [run for run in collection.runs if run.done and run.steps]
    jobs = measure_jobs(finished, asked, options, collection=collection, only=only)
    if not jobs:
        if collection.study is not None and not finished:
            raise UserError(
                f"{collection.folder}: no finished run to analyse; run: nca-interp train {collection.study.name}"
            )
        raise UserError(f"{collection.folder}: nothing of what was asked for applies to its checkpoints")
    return Plan(collection.study, jobs)


def measure_jobs(
    runs: Iterable[Run], asked: Collection[str] = (), options: Mapping[str, Mapping[str, Any]] | None = None,
    *, collection: Runs | None = None, only: bool = False, to_train: bool = False,
) -> list[Job]:  # fmt: skip
    """What is measured of runs that have ended, or (`to_train`) will have: what is always measured of a `collection` (None: of
    a study), and what is `asked` for (`only`: nothing else). `options`: by measurement, those that differ from their defaults."""
    jobs: list[Job] = []
    weights: dict[str, float] = {}
    for one in measurements().values():
        given = (options or {}).get(one.name, {})
        if not one.made(collection, one.name in asked, given, only):
            continue
        chosen = one.read(given)
        for run in _sharing(one, [run for run in runs if one.of(run)]):
            cost = resolve(one.cost)(run, chosen) if one.cost is not None else max(1, len(run.steps))
            cost *= one.fast if collection is not None and collection.settings.fast else 1
            needs = (f"train:{run.id}",) if to_train else ()
            of = resolve(one.parts)(chosen) if one.parts is not None else 1
            if run.id not in weights:
                weights[run.id] = _weights(run)
            shared = [
                Job(
                    f"{one.name}:{run.id}:{part}",
                    "measure",
                    MeasureJob(one.name, run.id, given, (part, of)),
                    needs,
                    0.0,
                    cost / of,
                    weights[run.id],
                )
                for part in range(of if of > 1 else 0)
            ]
            needs = (*needs, *(job.id for job in shared))
            whole = MeasureJob(one.name, run.id, given)
            jobs += [
                *shared,
                Job(f"{one.name}:{run.id}", "measure", whole, needs, 0.0, cost, weights[run.id]),
            ]
    return jobs


def _weights(run: Run) -> float:
    """Bytes of a checkpoint's weights in fp32, about."""
    if run.config is not None:
        return 4.0 * run.config.model.n_params(vocab(run.config))
    files = run.last.glob("*.safetensors") if run.steps else ()
    return 2.0 * sum(file.stat().st_size for file in files)  # they may be stored in 16 bits


def _sharing(one: Measurement, runs: list[Run]) -> list[Run]:
    """The first of the runs that share a measurement, of each group of them."""
    if one.share is None:
        return runs
    first: dict[Any, Run] = {}
    for run in runs:
        first.setdefault(resolve(one.share)(run), run)
    return list(first.values())


def headline(plan: Plan) -> list[RunConfig]:
    """The runs that a study is about: its primary regime and scratch on its first domain, and their pre-pre-training."""
    from nca_interp.analysis.verdicts.plan import SCRATCH, primary

    assert plan.study is not None
    compared = (primary({r.name: r.role for r in plan.study.regimes}), SCRATCH)
    first = plan.study.domains[0].name
    ends = [run for run in plan.runs if run.stage == "pt" and run.regime in compared and run.domain == first]
    return [run for run in plan.runs if run in ends or run.id in {end.parent for end in ends}]


def _check_rules(study: Study) -> None:
    """UserError for a rule whose probe is unknown or names no kind of head, before anything is written."""
    from nca_interp.discover import find

    for regime in study.regimes:
        rule = rule_of(regime.graft)
        for name in rule.probes if rule is not None else ():
            if find("probes", name).value.hit is None:
                raise UserError(
                    f"regimes.{regime.name}.graft.heads.rule.probe: {name!r} names no kind of head (it has no `hit`); "
                    "legal: induction, previous_token, and the other probes with a threshold (nca-interp list)"
                )
