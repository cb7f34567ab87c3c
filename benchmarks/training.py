"""How fast training is, against what one would use instead. One run, one machine, one model, one batch.

`python benchmarks/training.py [--sizes 1.5M 6M 50M] [--device cpu|cuda] [--precision bf16|fp32] [--threads N] [--seconds N]`

Loops, each in a process of its own, all on the same LlamaForCausalLM with the same rows, AdamW and clipping:
  ours             nca_interp.train, as a run does it (metrics, health, loader); `ours, compiled` with compile=on
  plain            after nanoGPT: autocast, fused AdamW, logits and F.cross_entropy, batches from a memory map
  Trainer          Hugging Face Trainer, its defaults, the same precision
  published        habits of the published code: additive mask tensor, AdamW not fused, loss over all logits;
                   `published, 64,000 rows` also allocates a head of 64,000 rows, as it does
`a CPU s`: tokens a second of processor time, which other work on the machine disturbs least (with --threads 1).
MFU: model FLOPs (6 x parameters in products + causal attention) over the best rate of a square matrix product here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nca_interp.config import MODULES, ModelConfig, Seeds, StageConfig
from nca_interp.model.presets import PRESETS


class Size(NamedTuple):
    """A model with a batch."""

    model: ModelConfig
    vocab: int
    batch: int
    micro: int | None


SIZES = {
    "1.5M": Size(PRESETS["mini"], 2048, 16, None),
    "6M": Size(PRESETS["small"], 2048, 16, None),
    "50M": Size(PRESETS["50m"], 50_257, 2, None),
    "50M-gpu": Size(PRESETS["50m"], 50_257, 32, None),
    "160M-gpu": Size(PRESETS["160m"], 50_257, 32, 16),
    "400M-gpu": Size(PRESETS["400m"], 50_257, 32, 8),
}
LOOPS = ("ours", "ours, compiled", "plain", "Trainer", "published", "published, 64,000 rows")
WARM_UP = 2
"""Steps that are not timed."""


def main() -> None:
    """Run every loop in a process of its own and print one table a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1.5M", "6M", "50M"])
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=8.0, help="timed training a loop")
    parser.add_argument("--rounds", type=int, default=2, help="times round all loops; the best counts")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        _one(args, *args.one)
        return
    from nca_interp.machine import device_name

    peak = _peak(args)
    print(f"{device_name()}, {args.threads} threads, {args.precision}; matrix product {peak / 1e9:,.0f} GFLOP/s")
    for name in args.sizes:
        _compare(args, name, peak)


def _compare(args: argparse.Namespace, name: str, peak: float) -> None:
    size = SIZES[name]
    print(
        f"\n{name}: {size.model.n_params(size.vocab):,} parameters, vocabulary {size.vocab:,}, "
        f"{size.batch} x {size.model.n_ctx} tokens a step"
    )
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        _write_tokens(Path(folder) / "tokens" / "random", size)
        for _ in range(args.rounds):
            for loop in args.loops:
                result = _child(args, name, loop, folder)
                print(f"  {loop}: {result}", file=sys.stderr, flush=True)
                if result and result["rate"] > found.get(loop, {"rate": 0})["rate"]:
                    first = found.get(loop, result)["first"]
                    found[loop] = {**result, "first": max(first, result["first"])}
    print(
        f"{'loop':24} {'tokens/s':>9} {'a CPU s':>8} {'ours/it':>8} {'MFU':>6} {'peak GB':>8} {'first step s':>13} {'data':>7} {'loss':>7}"
    )
    for loop, r in found.items():
        ratio = found["ours"]["rate"] / r["rate"] if "ours" in found else float("nan")
        mfu = r["rate"] * size.model.flops_per_token(size.vocab) / peak
        share = f"{r['share']:.2%}" if r["share"] is not None else ""
        print(
            f"{loop:24} {r['rate']:9,.0f} {r['cpu']:8,.0f} {ratio:8.2f} {mfu:6.1%} {r['memory'] / 1e9:8.2f} {r['first']:13.1f} {share:>7} {r['loss']:7.4f}"
        )


def _child(args: argparse.Namespace, name: str, loop: str, folder: str) -> dict[str, Any] | None:
    command = [sys.executable, __file__, "--one", name, loop, folder]
    for option in ("device", "precision", "threads", "seconds"):
        command += [f"--{option}", str(getattr(args, option))]
    environment = {**os.environ, **{k: str(args.threads) for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}}
    if args.device == "cpu":
        environment["ACCELERATE_USE_CPU"] = "true"
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        print(f"{loop}: failed\n{done.stderr[-2000:]}")
        return None
    return json.loads(done.stdout.splitlines()[-1])


def _peak(args: argparse.Namespace) -> float:
    """Best FLOP/s of square products of several sizes, measured now."""
    import torch

    torch.set_num_threads(args.threads)
    dtype, best = (torch.bfloat16 if args.precision == "bf16" else torch.float32), 0.0
    for n in (1024, 2048, *([8192] if args.device == "cuda" else [])):
        a = torch.randn(n, n, device=args.device, dtype=dtype)
        for _ in range(8):
            begin = time.perf_counter()
            for _ in range(2):
                a @ a
            _synchronise(args.device)
            best = max(best, 4 * n**3 / (time.perf_counter() - begin))
    return best


def _synchronise(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _write_tokens(folder: Path, size: Size) -> None:
    """A token directory of random rows: speed does not depend on what they say."""
    from nca_interp.data.specs import DyckSpec
    from nca_interp.data.text import token_dtype
    from nca_interp.data.tokens import GENERATOR_VERSION, TokenMeta
    from nca_interp.store import sha256_file, write_json

    folder.mkdir(parents=True)
    dtype, generator = token_dtype(size.vocab), np.random.default_rng(0)
    rows = {"train": 64 * size.batch, "val": 1}
    for split, n in rows.items():
        generator.integers(0, size.vocab, (n, size.model.n_ctx + 1)).astype(dtype).tofile(folder / f"{split}.bin")
    meta = TokenMeta(
        spec=DyckSpec().model_dump(mode="json"), seed=0, vocab_size=size.vocab, dtype=dtype.name,
        seq_len=size.model.n_ctx, n_train=rows["train"], n_val=1, unsupervised_prefix=0,
        sha256={f"{split}.bin": sha256_file(folder / f"{split}.bin") for split in rows},
        generator_version=GENERATOR_VERSION, request={}, provenance={}, description="random tokens",
    )  # fmt: skip
    write_json(folder / "meta.json", meta.model_dump(mode="json"))


class Clock:
    """Counts steps: the first, then warm-up, then timed ones until the time is up."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.begin, self.steps = args, time.perf_counter(), 0
        self.first = self.start = self.cpu_start = self.seconds = self.cpu = 0.0

    def tick(self) -> bool:
        """After each step; whether to go on."""
        _synchronise(self.args.device)
        now = time.perf_counter()
        self.steps += 1
        if self.steps == 1:
            self.first = now - self.begin
        if self.steps == 1 + WARM_UP:
            self.start, self.cpu_start = now, time.process_time()
        timed = self.steps - 1 - WARM_UP
        if timed > 0:
            self.seconds, self.cpu = (now - self.start) / timed, (time.process_time() - self.cpu_start) / timed
        return timed < 3 or now - self.start < self.args.seconds


def _one(args: argparse.Namespace, name: str, loop: str, folder: str) -> None:
    """Body of a child process: train with one loop, print the result as one line of JSON."""
    import torch

    torch.set_num_threads(args.threads)
    size = SIZES[name]
    clock, share = Clock(args), None
    if loop.startswith("ours"):
        loss, share = _ours(args, size, Path(folder), clock, compiled="compiled" in loop)
    else:
        run = {"plain": _plain, "Trainer": _trainer}.get(loop, _published)
        loss = run(args, size, Path(folder), clock, rows=64_000 if "64,000" in loop else size.vocab)
    memory = (
        torch.cuda.max_memory_allocated()
        if args.device == "cuda"
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    tokens = size.batch * size.model.n_ctx
    print(
        json.dumps(
            {
                "rate": tokens / clock.seconds,
                "cpu": tokens / clock.cpu,
                "first": clock.first,
                "memory": memory,
                "share": share,
                "loss": loss,
            }
        )
    )


class _Enough(Exception):
    pass


def _ours(args: argparse.Namespace, size: Size, folder: Path, clock: Clock, compiled: bool) -> tuple[float, float]:
    """A run of the package itself, stopped when the time is up."""
    from nca_interp.store import StudyDir
    from nca_interp.train import loop as module
    from nca_interp.train.run import RunConfig

    stage = StageConfig(
        steps=100_000, batch_size=size.batch, micro_batch=size.micro, lr=1e-4, warmup=0.0, eval_every=10**6, checkpoint_every=10**6, checkpoints="ends"
    )  # fmt: skip
    run = RunConfig(
        id=f"r{time.monotonic_ns()}", stage="ppt", regime="x", label="x", role="regime", domain=None, seed=0, seeds=Seeds(init=0, order=0, rules=0),
        model=size.model, config=stage, tokens="tokens/random", source={}, parent=None, keep=MODULES, reinit_to="initial",
        precision=args.precision, compile="on" if compiled else "off",
    )  # fmt: skip
    record, shares = module.record_step, []
    losses: list[float] = []

    def counted(loop: Any, step: Any, seconds: float, waited: float) -> None:
        record(loop, step, seconds, waited)
        losses.append(step.loss)
        if clock.steps > WARM_UP:
            shares.append(waited / seconds)
        if not clock.tick():
            raise _Enough

    module.record_step = counted
    with suppress(_Enough):
        module.train(StudyDir(folder), run)
    return losses[WARM_UP], float(np.median(shares))


def _model(size: Size, rows: int, device: str) -> Any:
    from nca_interp.model.llama import build

    return build(size.model, rows, 0, "ppt").train().to(device)


def _batches(size: Size, folder: Path, device: str) -> Any:
    """The same rows in the same order as our run takes them."""
    import torch

    from nca_interp.base import stream_seed
    from nca_interp.data.tokens import TokenFile
    from nca_interp.train.batches import batch_rows

    tokens, step, seed = TokenFile.open(folder / "tokens/random"), 0, stream_seed(0, "order", "ppt")
    while True:
        rows = torch.from_numpy(tokens.train[batch_rows(len(tokens.train), size.batch, seed, step)].astype(np.int64))
        yield rows[:, :-1].contiguous().to(device), rows[:, 1:].contiguous().to(device)
        step += 1


def _groups(model: Any) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _plain(args: argparse.Namespace, size: Size, folder: Path, clock: Clock, rows: int) -> float:
    """After karpathy/nanoGPT's train.py."""
    import torch
    import torch.nn.functional as F

    model = _model(size, rows, args.device)
    optimizer = torch.optim.AdamW(_groups(model), lr=1e-4, betas=(0.9, 0.98), fused=True)
    losses = []
    micro = size.micro or size.batch
    for x, y in _batches(size, folder, args.device):
        for a, b in zip(x.split(micro), y.split(micro), strict=True):
            with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
                logits = model(input_ids=a, use_cache=False).logits
                loss = F.cross_entropy(logits.view(-1, logits.size(-1)), b.view(-1)) * (len(a) / len(x))
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if not clock.tick():
            return losses[WARM_UP]
    raise AssertionError


def _published(args: argparse.Namespace, size: Size, folder: Path, clock: Clock, rows: int) -> float:
    """After danihyunlee/nca-pre-pretraining: a mask tensor, Adam that is not fused, the loss over all logits."""
    import torch
    import torch.nn.functional as F

    model = _model(size, rows, args.device)
    model.config._attn_implementation = "sdpa"
    optimizer = torch.optim.AdamW(_groups(model), lr=1e-4, betas=(0.9, 0.98), fused=False, foreach=False)
    losses = []
    micro = size.micro or size.batch
    for x, y in _batches(size, folder, args.device):
        for a, b in zip(x.split(micro), y.split(micro), strict=True):
            n = a.shape[1]
            mask = torch.full((n, n), float("-inf"), device=args.device).triu(1).expand(len(a), 1, n, n).contiguous()
            with torch.autocast(args.device, dtype=torch.bfloat16, enabled=args.precision == "bf16"):
                logits = model(input_ids=a, attention_mask=mask, use_cache=False).logits
                loss = F.cross_entropy(logits.reshape(-1, logits.size(-1)), b.reshape(-1)) * (len(a) / len(x))
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if not clock.tick():
            return losses[WARM_UP]
    raise AssertionError


def _trainer(args: argparse.Namespace, size: Size, folder: Path, clock: Clock, rows: int) -> float:
    """Hugging Face Trainer on the same rows."""
    from torch.utils.data import IterableDataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Rows(IterableDataset):
        def __iter__(self) -> Any:
            for x, _ in _batches(size, folder, "cpu"):
                for inputs in x:  # Trainer shifts labels itself, so that the last target of a row is lost
                    yield {"input_ids": inputs, "labels": inputs}

    class Count(TrainerCallback):
        def on_step_end(self, arguments: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop = not clock.tick()

    micro = size.micro or size.batch
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=100_000, per_device_train_batch_size=micro,
        gradient_accumulation_steps=size.batch // micro, learning_rate=1e-4, weight_decay=0.01, adam_beta2=0.98,
        max_grad_norm=1.0, lr_scheduler_type="constant", bf16=args.precision == "bf16", use_cpu=args.device == "cpu",
        save_strategy="no", report_to=[], logging_steps=1, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(_model(size, rows, args.device), arguments, train_dataset=Rows(), callbacks=[Count()])
    trainer.train()
    return [row["loss"] for row in trainer.state.log_history if "loss" in row][WARM_UP]


if __name__ == "__main__":
    main()
