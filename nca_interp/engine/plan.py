"""The plan of a study: which token files, runs and analyses it needs, in which order, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from nca_interp.analysis.collection.collection import Collection as Runs
from nca_interp.analysis.collection.collection import planned
from nca_interp.analysis.collection.run import Run
from nca_interp.base import UserError, digest
from nca_interp.checkpoint_spec import CheckpointSpec
from nca_interp.config import MODULES, Domain, Regime, StageConfig, Study
from nca_interp.data.specs import CONTROLS, QaSpec, TextSpec
from nca_interp.data.text.named_tokenizer import ASSUMED, known_vocabulary
from nca_interp.graft import NOTHING, Graft, HeadFile, rule_of
from nca_interp.measurement import Measurement, measurements, resolve
from nca_interp.swap_policy import TODAY
from nca_interp.train.run import RunConfig

RULES = "head-rules"
"""Measurement of a pre-pre-training that decides which heads the rules of its arms mean."""


@dataclass(frozen=True)
class TokensJob:
    """Write one token directory."""

    path: str
    """Relative to the study."""
    spec: dict[str, Any]
    n_train: int
    n_val: int
    seq_len: int
    seed: int
    tokenizer_from: str | None = None
    """Token directory whose tokenizer encodes question-answer pairs."""


@dataclass(frozen=True)
class MeasureJob:
    """Measure something of a run and keep it in a file."""

    what: str
    """Name of the measurement."""
    subject: str
    """Id of a run; of what several runs share, of the first of them."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ from their defaults."""
    part: tuple[int, int] | None = None
    """Which of several jobs that share the work, from 0, and how many; None: the only one, or the last."""


class Job(NamedTuple):
    """One unit of work; `needs` are ids of jobs that come first."""

    id: str
    kind: Literal["tokens", "train", "measure"]
    payload: TokensJob | RunConfig | MeasureJob
    needs: tuple[str, ...]
    flops: float
    cost: float = 1.0
    """Of a measurement: seconds that it takes, about; only ratios count."""
    weights: float = 0.0
    """Of a measurement: bytes of the weights of a checkpoint in fp32, about."""


class Plan(NamedTuple):
    """All jobs of a study or of a collection, every job after those it needs."""

    study: Study | None
    """None: checkpoints from elsewhere."""
    jobs: list[Job]

    @property
    def runs(self) -> list[RunConfig]:
        """The training runs, in order."""
        return [job.payload for job in self.jobs if isinstance(job.payload, RunConfig)]


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
    builder = _Builder(study, precision)
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


class _Builder:
    def __init__(self, study: Study, precision: Literal["fp32", "bf16"]) -> None:
        self.study = study
        self.precision = precision
        self.jobs: dict[str, Job] = {}
        self._paths: dict[tuple[Any, ...], str] = {}

    def add_run(self, regime: Regime, domain: Domain, seed: int) -> None:
        """Pre-training of one regime on one domain, with all that comes before and after it."""
        elsewhere = isinstance(regime.source, CheckpointSpec)
        parent = None if regime.source is None or elsewhere else self._ppt(regime, seed)
        stage = self._language(regime, domain)
        tokens = self._text_tokens(domain.name, domain.source, stage)
        pt = self._train(f"pt.{regime.name}.{domain.name}.s{seed}", "pt", regime, domain, seed, stage, tokens, parent)
        if domain.qa is not None and self.study.ft is not None and regime.ft:
            qa = self._qa_tokens(domain, domain.qa, tokens)
            stage = self.study.ft_of(domain)
            self._train(f"ft.{regime.name}.{domain.name}.s{seed}", "ft", regime, domain, seed, stage, qa, pt)

    def _language(self, regime: Regime, domain: Domain) -> StageConfig:
        """Pre-training on a domain as a regime does it: with what it adds, at its learning rate."""
        stage, changes = self.study.pt_of(regime, domain), dict[str, Any]()
        if regime.adds is not None:
            other = self.study.regime(regime.adds)
            before, model = self.study.ppt_of(other), self.study.model
            assert other.source is not None
            added = before.steps * before.batch_size / stage.batch_size
            if regime.adds_by == "flops":
                synthetic, language = (
                    model.flops_per_token(max(spec_vocab(source.model_dump(mode="json")), config.vocab_rows or 0))
                    for source, config in ((other.source, before), (domain.source, stage))
                )
                added *= synthetic / language
            changes["steps"] = stage.steps + math.ceil(added)
            if stage.horizon is not None:
                changes["horizon"] = math.ceil(stage.horizon * changes["steps"] / stage.steps)
        if regime.lr_factor != 1:
            changes["lr"] = stage.lr * regime.lr_factor
        return stage.model_copy(update=changes)

    def _ppt(self, regime: Regime, seed: int) -> str:
        # regimes that differ only in what they keep share one pre-pre-training
        stage = self.study.ppt_of(regime)
        alike = (r for r in self.study.regimes if r.source == regime.source and self.study.ppt_of(r) == stage)
        first = next(alike)
        assert first.source is not None
        assert not isinstance(first.source, CheckpointSpec)
        if isinstance(first.source, TextSpec):
            tokens = self._text_tokens(first.name, first.source, stage)
        else:
            rules = self.study.seeds[seed].rules
            tokens = self._tokens(first.name, first.source, stage.steps * stage.batch_size, rules)
        return self._train(f"ppt.{first.name}.s{seed}", "ppt", first, None, seed, stage, tokens, None)

    def _graft(self, regime: Regime, parent: str | None, seed: int) -> tuple[Graft, str | None]:
        """The graft with the file of heads of this parent, and the run that gives weights to it."""
        graft = regime.graft
        if isinstance(graft.heads, HeadFile):
            file = graft.heads.file.replace("{parent}", parent or f"checkpoint-{seed}")
            graft = graft.model_copy(update={"heads": graft.heads.model_copy(update={"file": file})})
        return graft, None if graft.donor is None else self._ppt(self.study.regime(graft.donor), seed)

    def _rule(self, run: RunConfig) -> list[str]:
        """The job that decides which heads a rule means, where the run's graft names one."""
        if rule_of(run.graft) is None:
            return []
        job_id = f"{RULES}:{run.parent}"
        if job_id not in self.jobs:
            assert run.parent is not None
            self.jobs[job_id] = Job(job_id, "measure", MeasureJob(RULES, run.parent), (f"train:{run.parent}",), 0.0)
        return [job_id]

    def _text_tokens(self, name: str, spec: TextSpec, stage: StageConfig) -> str:
        return self._tokens(name, spec, stage.steps * stage.batch_size, 0)

    def _tokens(self, name: str, spec: Any, n_train: int, seed: int, tokenizer_from: str | None = None) -> str:
        n_ctx = self.study.model.n_ctx
        known = (name, id(spec), n_train, seed, tokenizer_from)  # specs live as long as the study
        if known in self._paths:
            return self._paths[known]
        asked = {"spec": spec.model_dump(mode="json"), "n_train": n_train, "n_val": self.study.val_rows, "seed": seed}
        path = f"tokens/{name}-{digest([asked, n_ctx, tokenizer_from], 8)}"
        job_id = f"tokens:{path}"
        if job_id not in self.jobs:
            payload = TokensJob(path, asked["spec"], n_train, self.study.val_rows, n_ctx, seed, tokenizer_from)
            needs = (f"tokens:{tokenizer_from}",) if tokenizer_from else ()
            self.jobs[job_id] = Job(job_id, "tokens", payload, needs, 0.0)
        self._paths[known] = path
        return path

    def _qa_tokens(self, domain: Domain, qa: QaSpec, tokens: str) -> str:
        return self._tokens(f"{domain.name}-qa", qa, 0, 0, tokenizer_from=tokens)

    def _train(
        self, run_id: str, stage: Any, regime: Regime, domain: Domain | None, seed: int, config: StageConfig,
        tokens: str, parent: str | None,
    ) -> str:  # fmt: skip
        job_id = f"train:{run_id}"
        if job_id in self.jobs:
            return run_id
        source = domain.source if domain is not None else regime.source
        assert source is not None
        elsewhere = regime.source.of(seed) if isinstance(regime.source, CheckpointSpec) and stage == "pt" else None
        # before language all arms of a source are one run
        policy = regime.swap if stage != "ppt" else TODAY
        model = policy.applied(self.study.model)
        graft, donor = self._graft(regime, parent, seed) if stage == "pt" else (NOTHING, None)
        chosen = stage == "ft" and domain is not None and domain.qa is not None and domain.qa.choose == "best"
        if regime.checkpoints is not None and not chosen:
            config = config.model_copy(update={"checkpoints": regime.checkpoints})
        run = RunConfig(
            id=run_id,
            stage=stage,
            regime=regime.name,
            label=regime.label,
            role=regime.role,
            domain=domain.name if domain else None,
            seed=seed,
            seeds=self.study.seeds[seed],
            model=model,
            config=config,
            tokens=tokens,
            source=source.model_dump(mode="json"),
            parent=parent,
            checkpoint=elsewhere,
            keep=regime.keep if stage == "pt" else MODULES,
            reinit_to=regime.reinit_to,
            swap=policy if stage == "pt" else TODAY,
            graft=graft,
            donor=donor,
            precision=self.precision,
            compile=self.study.compile,
        )
        needs = [f"tokens:{tokens}"] + [f"train:{before}" for before in (parent, donor) if before] + self._rule(run)
        flops = config.steps * config.batch_size * model.n_ctx * model.flops_per_token(vocab(run))
        self.jobs[job_id] = Job(job_id, "train", run, tuple(needs), flops)
        return run_id


def vocab(run: RunConfig) -> int:
    """Rows of the run's embedding, as far as known before the token file exists (a trained BPE may end up smaller)."""
    return max(spec_vocab(run.source), run.config.vocab_rows or 0)


def spec_vocab(source: dict[str, Any]) -> int:
    """Tokens of a source's vocabulary, ASSUMED for an hf tokenizer that is not on this machine; of question-answer pairs,
    which use their domain's, 0."""
    if source.get("kind") == "nca":
        return source["n_states"] ** (source["patch"] ** 2) + 2
    if source.get("kind") == "dyck":
        return 2 * source["k"]
    if source.get("kind") in CONTROLS:
        return CONTROLS[source["kind"]].model_validate(source).vocab_size
    tokenizer = source.get("tokenizer", {"kind": "bpe", "vocab_size": 0})
    return (known_vocabulary(tokenizer["name"]) or ASSUMED) if tokenizer["kind"] == "hf" else tokenizer["vocab_size"]


def unknown_tokenizers(plan: Plan) -> list[str]:
    """Names of hf tokenizers of which a plan's costs do not know the vocabulary."""
    sources = [job.payload.spec for job in plan.jobs if isinstance(job.payload, TokensJob)]
    named = [source["tokenizer"]["name"] for source in sources if source.get("tokenizer", {}).get("kind") == "hf"]
    return [name for name in dict.fromkeys(named) if known_vocabulary(name) is None]


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
