"""From the arms of a study to its jobs: token files and trainings, each once, whatever the number of arms that share it."""

from __future__ import annotations

import math
from typing import Any, Literal

from nca_interp.base import digest
from nca_interp.checkpoint_spec import CheckpointSpec
from nca_interp.config import MODULES, Domain, Regime, StageConfig, Study
from nca_interp.data.specs import QaSpec, TextSpec
from nca_interp.engine.graph import RULES, Job, MeasureJob, TokensJob
from nca_interp.engine.vocabulary import spec_vocab, vocab
from nca_interp.graft import NOTHING, Graft, HeadFile, rule_of
from nca_interp.swap_policy import TODAY
from nca_interp.train.run import RunConfig


class Builder:
    """The jobs of the runs that were added, in `jobs`, every job after those it needs."""

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
