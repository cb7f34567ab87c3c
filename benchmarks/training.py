"""How fast training is, against what one would use instead: one machine, one model, the same rows, and fair turns.

`python benchmarks/training.py [--sizes 1.5M 6M 50M] [--device cpu|cuda] [--precision bf16|fp32] [--threads N] [--seconds N]`

Loops, each in a process of its own, all on the same LlamaForCausalLM with the same rows, AdamW and clipping:
  ours             nca_interp.train, as a run does it (metrics, health, loader); `ours, compiled` with compile=on
  plain            after nanoGPT: autocast, fused AdamW, logits and F.cross_entropy, batches from a memory map
  Trainer          Hugging Face Trainer, its defaults, the same precision
  published        habits of the published code: additive mask tensor, AdamW not fused, loss over all logits;
                   `published, 64,000 rows` also allocates a head of 64,000 rows, as it does
All processes live at once and take turns of about `--turn` seconds, every round in another order, while the others
sleep: whatever else the machine does meets all alike. A loop whose step takes several turns sits out some rounds. Rates are medians over the rounds. A ratio is the median of the
rounds' own ratios, with its quartiles; that in processor time (all threads) stands beside that on the clock.
MFU: model FLOPs (6 x parameters in products + causal attention) over those of a square matrix product in the same round.
"first step": seconds from the start of the process, imports, and compiling without a cache, to the end of step 1.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from multiprocessing import get_context
from multiprocessing.context import SpawnContext
from pathlib import Path

import numpy as np
import pandas as pd
from training_loops import LOOPS, SIZES, Setting, Size, Turn, synchronise, train, write_tokens

LEAST_ROUNDS, WARM_UP = 3, 2


class Racer:
    """A loop in a process of its own."""

    def __init__(self, context: SpawnContext, setting: Setting, size: Size, loop: str, folder: Path) -> None:
        self.loop, self.size, self.alive = loop, size, True
        self.turns: dict[int, Turn] = {}
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=train, args=(theirs, setting, size, loop, folder), daemon=True)
        begin = time.perf_counter()
        self.process.start()
        theirs.close()
        first, warm = self._take(1), self._take(WARM_UP)
        self.first = time.perf_counter() - begin - (warm.seconds if warm else 0)
        self.losses = [*first.losses, *warm.losses] if first and warm else []
        self.step_seconds = warm.seconds / warm.steps if warm else 0.0

    def _take(self, steps: int) -> Turn | None:
        if self.alive:
            try:
                self.connection.send(steps)
                return self.connection.recv()
            except (EOFError, OSError):  # it has said why on stderr
                self.alive = False
        return None

    def turn(self, number: int, seconds: float) -> None:
        """Let it take steps for about `seconds` in this round; one step, in fewer rounds, where that is much longer."""
        if number % max(1, int(self.step_seconds / seconds / 2)) == 0 and (
            turn := self._take(max(1, round(seconds / self.step_seconds)))
        ):
            self.turns[number] = turn

    def stop(self) -> None:
        """End the process."""
        if self.alive:
            self.connection.send(0)
        self.process.join(60)
        self.process.kill()

    def rates(self, cpu: bool = False) -> pd.Series:
        """Tokens a second by round, on the clock or of processor time."""
        tokens = self.size.tokens
        return pd.Series({k: tokens * t.steps / (t.cpu if cpu else t.seconds) for k, t in self.turns.items()})


def main() -> None:
    """Print one table a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1.5M", "6M", "50M"])
    parser.add_argument("--loops", nargs="+", choices=LOOPS, default=list(LOOPS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--seconds", type=float, default=45.0, help=f"a size, for the turns; at least {LEAST_ROUNDS} rounds"
    )
    parser.add_argument("--turn", type=float, default=0.7, help="seconds")
    args = parser.parse_args()
    setting = Setting(args.device, args.precision, args.threads)
    from nca_interp.machine import device_name

    print(f"{device_name()}, {args.threads} threads, {args.precision}, load {os.getloadavg()[0]:.1f} at the start")
    for name in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            _race(args, setting, SIZES[name], name, Path(folder))


def _race(args: argparse.Namespace, setting: Setting, size: Size, name: str, folder: Path) -> None:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(setting.threads)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    write_tokens(folder / "tokens" / "random", size)
    context, racers, peaks, order = get_context("spawn"), list[Racer](), list[float](), random.Random(0)
    try:
        for loop in args.loops:
            racers.append(Racer(context, setting, size, loop, folder))
            _say(
                f"{name}, {loop}: first step after {racers[-1].first:.1f} s, then {racers[-1].step_seconds:.3f} s a step"
            )
        racers = [racer for racer in racers if racer.alive]
        seconds = max(args.turn, min(racer.step_seconds for racer in racers))
        begin = time.perf_counter()
        while len(peaks) < LEAST_ROUNDS or time.perf_counter() - begin < args.seconds:
            for racer in order.sample(racers, len(racers)):
                racer.turn(len(peaks), seconds)
            peaks.append(_product_rate(setting))
            _say(f"{name}, round {len(peaks)}, {time.perf_counter() - begin:.0f} s")
    finally:
        for racer in racers:
            racer.stop()
    _print(name, size, [racer for racer in racers if racer.alive], pd.Series(peaks))


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _product_rate(setting: Setting) -> float:
    """Best FLOP/s of square products, now."""
    import torch

    torch.set_num_threads(setting.threads)
    n = 8192 if setting.device == "cuda" else 1024
    dtype = torch.bfloat16 if setting.precision == "bf16" else torch.float32
    a, best = torch.randn(n, n, device=setting.device, dtype=dtype), 0.0
    for _ in range(10):
        begin = time.perf_counter()
        a @ a
        synchronise(setting.device)
        best = max(best, 2 * n**3 / (time.perf_counter() - begin))
    return best


def _print(name: str, size: Size, racers: list[Racer], peaks: pd.Series) -> None:
    print(
        f"\n{name}: {size.model.n_params(size.vocab):,} parameters, vocabulary {size.vocab:,}, {size.batch} x "
        f"{size.model.n_ctx} tokens a step; {len(peaks)} rounds; matrix product {peaks.median() / 1e9:,.0f} GFLOP/s"
    )
    bases = [racer for racer in racers if racer.loop.startswith("ours")]
    head = ["loop", "tokens/s", "a CPU s", *(f"{base.loop} / it{of}" for base in bases for of in (", clock", ", CPU"))]
    rows = [[*head, "MFU", "peak GB", "first step s", "data", f"loss at {1 + WARM_UP}"]]
    for racer in racers:
        mfu = (racer.rates() * size.model.flops_per_token(size.vocab) / peaks).median()
        waited = [share for turn in racer.turns.values() for share in turn.waited]
        rows.append(
            [
                racer.loop,
                f"{racer.rates().median():,.0f}",
                f"{racer.rates(cpu=True).median():,.0f}",
                *(_ratio(base.rates(cpu) / racer.rates(cpu)) for base in bases for cpu in (False, True)),
                f"{mfu:.1%}",
                f"{max(turn.memory for turn in racer.turns.values()) / 1e9:.2f}",
                f"{racer.first:.1f}",
                f"{np.median(waited):.3%}" if waited else "",
                f"{racer.losses[-1]:.4f}",
            ]
        )
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)
        if row is rows[0]:
            print("|---" * len(row) + "|")


def _ratio(of_rounds: pd.Series) -> str:
    low, middle, high = of_rounds.quantile([0.25, 0.5, 0.75])
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
