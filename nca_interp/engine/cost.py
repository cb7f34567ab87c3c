"""What runs cost: parameters, FLOPs, memory, disk, time. Estimates whose formulas stand here, for `--dry-run` and docs/scaling.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from nca_interp import machine
from nca_interp.base import duration
from nca_interp.config import STAGE_LABELS, ModelConfig
from nca_interp.data.text.named_tokenizer import ASSUMED
from nca_interp.engine.graph import Plan, TokensJob
from nca_interp.engine.local import default_workers
from nca_interp.engine.stands import BEGINNING, Stand, left
from nca_interp.engine.vocabulary import spec_vocab, unknown_tokenizers, vocab
from nca_interp.train.run import RunConfig

CHECKPOINT_BYTES, STATE_BYTES = 4, 12
"""A parameter: fp32 weights; weights and both AdamW moments."""
CHECKPOINT_FILES = 8_000
"""Bytes of a checkpoint's small files (configuration, provenance, manifest, headers of tensors) without the tokenizer."""
STATES_KEPT = 2
"""Newest resumable states of an unfinished run; while one is written there is one more."""
UTILISATION = 0.4
"""Assumed share of the measured matrix-product rate that training reaches (0.4 to 0.8 measured for tiny to 50M)."""
PROCESS_BYTES = 500e6
"""A process that has imported torch and transformers and trains nothing (measured 0.4 to 0.6 GB)."""


class RunCost(NamedTuple):
    """What one run needs; bytes unless a unit is named."""

    parameters: int
    memory: float
    """Weights, gradients, moments and activations of one micro-batch; without the process itself."""
    checkpoint: int
    """One checkpoint on disk."""
    checkpoints: int
    """Number of checkpoints kept."""
    state: int
    """One resumable state on disk."""
    states: int
    """Number of states kept for good."""

    @property
    def disk(self) -> int:
        """What stays when the run is done."""
        return self.checkpoint * self.checkpoints + self.state * self.states

    @property
    def extra_while_running(self) -> int:
        """What the run takes beside that at its peak: the states that it can be resumed from, and the one being written."""
        return self.state * (STATES_KEPT + 1)


class DiskCost(NamedTuple):
    """Disk that a plan takes, bytes."""

    tokens: int
    runs: int
    """Checkpoints and asked states of all runs."""
    extra: int
    """Resumable states of the runs that train at the same time."""

    @property
    def peak(self) -> int:
        """The most that is taken at any time."""
        return self.tokens + self.runs + self.extra


def run_cost(run: RunConfig, device: str = "cpu") -> RunCost:
    """What one run needs; `device` ("cpu" or "cuda") decides how many logits exist at a time."""
    parameters = run.model.n_params(vocab(run))
    return RunCost(
        parameters=parameters,
        memory=memory(
            run.model, vocab(run), run.config.rows_at_once, run.precision, device, run.config.gradient_checkpointing
        ),
        checkpoint=parameters * CHECKPOINT_BYTES + CHECKPOINT_FILES,
        checkpoints=len(run.config.checkpoint_steps()),
        state=parameters * STATE_BYTES + CHECKPOINT_FILES,
        states=len(run.config.state_steps),
    )


def memory(
    model: ModelConfig, vocab_size: int, rows: int, precision: str, device: str = "cpu", checkpointing: bool = False
) -> float:
    """Bytes of the tensors when `rows` sequences are trained at a time on one device (unsharded).

    A parameter: weight, gradient and two AdamW moments in fp32, 16 bytes; bf16 adds a copy of the matrices, 2 bytes.
    A token and layer, kept for the backward pass: both norms their input and their normalised input (4 d_model, always
    fp32), the projections their inputs (2 d_model), attention q, k, v and its output (4 n_heads d_head), the MLP gate,
    silu(gate), up and their product (4 d_mlp); bf16 halves what is not marked fp32. With gradient checkpointing, that of
    one layer, and of the others their fp32 input. The loss: the logits of the rows that it takes at a time, in the
    precision and as fp32 softmax and error (of another architecture all rows), and the last hidden state four times.
    """
    from nca_interp.model.loss import LOGITS, MIN_ROWS

    width = 2 if precision == "bf16" else 4
    d, heads, tokens = model.d_model, model.n_heads * model.head_width, rows * model.n_ctx
    layer = 4 * 4 * d + width * (2 * d + 4 * heads + 4 * model.d_mlp)
    layers = layer + 4 * d * (model.n_layers - 1) if checkpointing else layer * model.n_layers
    at_a_time = min(tokens, max(MIN_ROWS, LOGITS[device] // vocab_size))
    if model.architecture is not None:  # the whole matrix, as its own forward pass makes it
        at_a_time = tokens
    loss = at_a_time * vocab_size * (4 + 2 * width) + tokens * d * (8 + 2 * width)
    return (18.0 if precision == "bf16" else 16.0) * model.n_params(vocab_size) + tokens * layers + loss


def disk_cost(plan: Plan, workers: int) -> DiskCost:
    """Bytes that a plan's token files, checkpoints and states take."""
    tokens = 0
    for job in plan.jobs:
        if isinstance(job.payload, TokensJob):
            rows = job.payload.n_train + job.payload.n_val
            item = 2 if spec_vocab(job.payload.spec) <= 2**16 else 4
            tokens += rows * (job.payload.seq_len + 1) * item
    costs = [run_cost(run) for run in plan.runs]
    at_once = sorted((cost.extra_while_running for cost in costs), reverse=True)[:workers]
    return DiskCost(tokens, sum(cost.disk for cost in costs), sum(at_once))


def print_plan(
    plan: Plan, folder: Path, workers: int | None, threads: int, stands: dict[str, Stand] | None = None
) -> None:
    """Print every run of the plan with its budget, needs, the run it starts from and how far it is (`stands`, by job; None: nothing has begun),
    what is shared, then the totals. Writes nothing."""
    workers, stands = workers or default_workers(), stands or {}
    from nca_interp.model.parent import forward_words

    assert plan.study is not None
    model, runs = plan.study.model, plan.runs
    print(f"study       {plan.study.name}: {plan.study.title}")
    print(f"folder      {folder}")
    shape = f"{model.n_layers} layers, d_model {model.d_model}, {model.n_heads} heads, d_mlp {model.d_mlp}, n_ctx {model.n_ctx}"
    print(f"model       {shape}: {model.n_params_body:,} parameters without embeddings")
    if slower := forward_words(model):
        print(f"forward     {slower}")
    flops = {job.payload.id: job.flops for job in plan.jobs if job.kind == "train"}  # type: ignore[union-attr]
    costs = {run.id: run_cost(run, machine.device_type()) for run in runs}
    print(
        f"{'run':36} {'steps':>9} {'tokens':>14} {'parameters':>13} {'FLOPs':>9} {'memory':>8} {'checkpoints':>14}  {'state':14} after"
    )
    for run in runs:
        cost, tokens = costs[run.id], run.config.steps * run.config.batch_size * model.n_ctx
        kept = f"{cost.checkpoints} x {size(cost.checkpoint)}"
        print(
            f"{run.id:36} {run.config.steps:9,} {tokens:14,} {cost.parameters:13,} {flops[run.id]:9.2e} "
            f"{size(cost.memory):>8} {kept:>14}  {_stand(run, stands):14} {run.parent or '-'}"
        )
    stages = Counter(STAGE_LABELS[run.stage] for run in runs)
    print(f"runs        {len(runs)} ({', '.join(f'{n} {stage}' for stage, n in stages.items())})")
    for line in shared(runs):
        print(line)
    total, to_do = sum(flops.values()), sum(job.flops * left(job, stands) for job in plan.jobs)
    done = sum(stands.get(f"train:{run.id}", BEGINNING).state == "done" for run in runs)
    print(f"to do       {len(runs) - done} of {len(runs)} runs; {done} are done and stay as they are")
    print(f"FLOPs       {total:.3g}" + (f", of which {to_do:.3g} are to do" if to_do < total else ""))
    for name in unknown_tokenizers(plan):
        print(f"unknown     tokenizer {name!r} is not on this machine: {ASSUMED:,} tokens are assumed")
    _print_needs(plan, list(costs.values()), workers)
    rate = machine.matmul_flops(runs[0].precision, threads)
    print(
        f"time        about {duration(to_do / (rate * UTILISATION * workers))}: {workers} worker(s) at {UTILISATION:.0%} of the "
        f"{rate / 1e9:,.0f} GFLOP/s that a {runs[0].precision} matrix product reaches here now (training only)"
    )


def shared(runs: Sequence[RunConfig]) -> Iterator[str]:
    """The graph in words: which runs of language each synthetic stage serves, seeds together, a line each."""
    seeds: dict[str, set[int]] = {}
    served: dict[str, dict[str, list[str]]] = {}
    for run in (run for run in runs if run.stage == "ppt"):
        seeds.setdefault(run.regime, set()).add(run.seed)
        served.setdefault(run.regime, {})
    stage = {run.id: run.regime for run in runs if run.stage == "ppt"}
    for run in runs:
        if run.parent in stage:
            domains = served[stage[run.parent]].setdefault(run.regime, [])
            domains += [run.domain] if run.domain and run.domain not in domains else []
    lines: list[str] = []
    alone: dict[tuple[str, int], list[str]] = {}
    for name, arms in served.items():
        by_place: dict[str, list[str]] = {}
        for arm, domains in arms.items():
            by_place.setdefault(", ".join(domains), []).append(arm)
        told = "; ".join(f"{', '.join(names)} on {place}" for place, names in by_place.items())
        if set(arms) == {name}:
            alone.setdefault((", ".join(arms[name]), len(seeds[name])), []).append(f"ppt.{name}")
        else:
            lines.append(f"ppt.{name} ({len(seeds[name])} seed(s)) is trained once for {told}")
    for (place, n), names in alone.items():
        lines.append(f"{', '.join(names)} ({n} seed(s)): {'each ' * (len(names) > 1)}for its own regime on {place}")
    yield from (f"{'graph' if index == 0 else '':11} {line}" for index, line in enumerate(lines))


def _stand(run: RunConfig, stands: dict[str, Stand]) -> str:
    found = stands.get(f"train:{run.id}", BEGINNING)
    return f"{found.step:,} of {run.config.steps:,}" if 0 < found.step < run.config.steps else found.state


def _print_needs(plan: Plan, costs: list[RunCost], workers: int) -> None:
    disk = disk_cost(plan, workers)
    largest = max(costs, key=lambda cost: cost.memory)
    print(
        f"memory      {size(largest.memory)} for the largest run (weights, gradients, AdamW: 16 bytes a parameter; "
        f"the rest activations), and {size(PROCESS_BYTES)} a process; {workers} at a time"
    )
    n = sum(cost.checkpoints for cost in costs)
    print(
        f"disk        {size(disk.tokens + disk.runs)} at the end: {n} checkpoints ({CHECKPOINT_BYTES} bytes a parameter)"
    )
    if states := sum(cost.states for cost in costs):
        print(f"            {size(sum(c.state * c.states for c in costs))} of it {states} asked states")
    print(f"            {size(disk.tokens)} of it token files")
    print(
        f"            {size(disk.peak)} at the peak: a running run also has {STATES_KEPT} resumable states ({STATE_BYTES} bytes "
        f"a parameter), {STATES_KEPT + 1} while it writes one: up to {size(max(c.extra_while_running for c in costs))}"
    )


def size(n: float) -> str:
    """Bytes as 12 kB, 3.4 MB, 56 GB, 1.2 TB."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n >= factor:
            return f"{n / factor:.{0 if n >= 100 * factor else 1}f} {unit}"
    return f"{n / 1e3:.0f} kB"
