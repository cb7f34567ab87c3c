"""What the probes cost: all of them on all heads of one checkpoint, against TransformerLens and against a bare forward pass.

`python benchmarks/analysis.py [--sizes 256x4,...] [--grid] [--threads N] [--rounds N] [--device cuda]`; a size is n_ctx x
layers, --grid is n_ctx 256 to 2048 at 4, 12 and 24 layers. Random Llamas are made on the spot (d_model 256, 8 heads, 4096
tokens); a stimulus has as many sequences as make 4096 tokens, 2 to 8. In every round all methods take turns in one process,
so that a disturbance of the machine hits all; ratios are those of one round, their median over rounds with least and largest.

bare          the same stimuli through the same model, sdpa, with logits where a probe reads the loss, nothing kept
probes        every built-in probe (copying and losses included), as `nca_interp.analyze` runs them
cache         TransformerLens run_with_cache of all patterns on the same stimuli, then the same scores from whole maps, as
              many sequences at a time as keep the patterns below 1 GiB
floor         the same run_with_cache, its patterns thrown away: what no way to reduce them can be faster than
hooks         TransformerLens without a cache: the same scores inside a hook on every pattern
detect_head   TransformerLens detect_head for its three kinds on one stimulus, against our probes for the three

Memory is the peak of a process of its own: what it takes above the opened model, and all of it. `cache` takes a whole
stimulus at once there, as a notebook does, `cache, 1` one sequence at a time; --limit GiB is what a process may take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from peer_whole_maps import THREE, Maps, Work, detect

from nca_interp import discover
from nca_interp.analysis.attention.forward import slices
from nca_interp.analysis.causes.transformer_lens import to_transformer_lens
from nca_interp.analysis.probing.measure import Measurer, on_device, open_scored
from nca_interp.analysis.stimuli.base import Subject

HEADS = 8
DEFAULT = "256x4,512x4,1024x4,256x12"
GRID = ",".join(f"{n_ctx}x{layers}" for layers in (4, 12, 24) for n_ctx in (256, 512, 1024, 2048))


def make_model(directory: Path, n_ctx: int, layers: int) -> Path:
    """A random Llama checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=688, num_hidden_layers=layers, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, max_position_embeddings=n_ctx, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def subject_of(n_ctx: int) -> Subject:
    """Natural rows are random tokens: no cost depends on what they say."""
    rows = np.random.default_rng(0).integers(0, 4096, (64, n_ctx + 1))
    return Subject("benchmark", 4096, n_ctx, rows=rows, spec={"kind": "text"}, rows_from="random")


def stimuli_of(measurer: Measurer, subject: Subject) -> list[Work]:
    """Each stimulus of the probes once."""
    found: dict[Any, bool] = {}
    for probe in measurer.probes.values():
        found[probe.stimulus] = found.get(probe.stimulus, False) or probe.reads == "loss"
    return [Work(stimulus.build(subject), loss) for stimulus, loss in found.items()]


def bare(model: Any, work: list[Work]) -> None:
    """Forward passes and nothing else, in the slices that the probes use."""
    with torch.inference_mode():
        for batch, loss in work:
            for part in slices(batch):
                tokens = torch.from_numpy(part.inputs).to(model.device)
                (model if loss else model.base_model)(input_ids=tokens, use_cache=False)


def definitions_with(sequences: int) -> dict[str, discover.Definition]:
    """The built-in probes, each on as many sequences."""
    found = {}
    for name, definition in discover.load("probes").items():
        stimulus = replace(definition.value.stimulus, sequences=sequences)
        found[name] = replace(definition, value=replace(definition.value, stimulus=stimulus))
    return found


def variants(directory: Path, n_ctx: int, device: str, only: str | None = None) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; with `only`, what is needed for that alone."""
    from nca_interp.model.checkpoint import load_model

    subject = subject_of(n_ctx)
    measurer = Measurer(definitions_with(sequences_of(n_ctx)))
    work = stimuli_of(measurer, subject)
    found: dict[str, Callable[[], Any]] = {}
    if only in (None, "bare"):
        found["bare"] = partial(bare, on_device(load_model(directory), device), work)
    if only in (None, "probes"):
        scored = open_scored(directory, device)
        found["probes"] = partial(measurer.measure, scored, subject)
        found["three"] = partial(measurer.only(set(THREE)).measure, scored, subject)
    if only not in ("bare", "probes"):
        bridge = to_transformer_lens(on_device(load_model(directory, attn="eager"), device), "benchmark")
        rows = {"cache, whole": n_ctx, "cache, 1": 1}.get(only or "")
        maps = Maps(bridge, work, rows)
        found |= {"floor": partial(maps.cached, reduce=False), "cache": maps.cached, "hooks": maps.hooked}
        repeated = measurer.probes["induction"].stimulus.build(subject)
        found["detect_head"] = partial(detect, bridge, repeated)
    return found


def sequences_of(n_ctx: int) -> int:
    """Sequences of a stimulus."""
    return min(8, max(2, 4096 // n_ctx))


def timed(functions: dict[str, Callable[[], Any]], args: argparse.Namespace) -> list[dict[str, float]]:
    """Seconds of each function in each round, in turn and from another one on in every round."""

    def now() -> float:
        if args.device != "cpu":
            torch.cuda.synchronize()
        return time.process_time() if args.cpu_time else time.perf_counter()

    functions["probes"]()  # stimuli, chance levels, and what a process does once
    functions["bare"]()
    names, begin = list(functions), time.perf_counter()
    rounds: list[dict[str, float]] = []
    while len(rounds) < args.rounds and (len(rounds) < 2 or time.perf_counter() - begin < args.seconds):
        names, took = [*names[1:], names[0]], {}
        for name in names:
            start = now()
            functions[name]()
            took[name] = now() - start
        rounds.append(took)
    return rounds


def ratio(rounds: list[dict[str, float]], over: str, under: str) -> str:
    """Median of the rounds' ratios, least and largest."""
    found = [took[over] / took[under] for took in rounds]
    return f"{median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


class Peak(NamedTuple):
    """MiB of a process."""

    above: float
    """Above what the opened model takes."""
    total: float


def peak(directory: Path, n_ctx: int, layers: int, name: str, args: argparse.Namespace) -> Peak | str:
    """Peak memory of one method in a process of its own; or why there is none."""
    length, sequences = n_ctx, sequences_of(n_ctx)
    patterns = 4 * layers * HEADS * length**2 * (sequences if name == "cache, whole" else 1)
    if name.startswith("cache") and patterns > args.limit * 2**30:
        return f"does not fit: patterns alone {patterns / 2**30:.1f} GiB"
    command = [sys.executable, __file__, "--peak", name, "--directory", str(directory), "--sizes", f"{n_ctx}x{layers}"]
    command += ["--threads", str(args.threads), "--device", args.device, "--limit", str(args.limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        assert "memory" in done.stderr.lower(), done.stderr
        return f"does not fit in {args.limit:g} GiB"
    return Peak(*json.loads(done.stdout.splitlines()[-1]))


def report_peak(args: argparse.Namespace, n_ctx: int) -> None:
    """The work of the process whose memory is measured."""

    def used(field: str) -> float:
        """MiB of this process: VmRSS now, VmHWM at most so far."""
        return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) / 1024

    functions = variants(args.directory, n_ctx, args.device, args.peak)
    run = functions["cache" if args.peak.startswith("cache") else args.peak]
    if args.device == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(args.limit * 2**30), -1))
        before = used("VmRSS")
        run()
        print(json.dumps((used("VmHWM") - before, used("VmHWM"))))
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20
    run()
    most = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps((most - before, most)))


def against(peer: Peak | str, ours: Peak | str) -> str:
    """A peer's memory above the model, as a multiple of ours."""
    if isinstance(peer, str):
        return peer
    assert isinstance(ours, Peak), ours
    return f"{peer.above / ours.above:.1f}x"


def size_row(n_ctx: int, layers: int, args: argparse.Namespace) -> list[str]:
    """One line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        directory = make_model(Path(folder), n_ctx, layers)
        cells = [f"{n_ctx} x {layers}", str(sequences_of(n_ctx))]
        if not args.no_time:
            rounds = timed(variants(directory, n_ctx, args.device), args)
            cells += [str(len(rounds)), f"{min(took['bare'] for took in rounds):.2f}"]
            cells += [ratio(rounds, name, "bare") for name in ("probes", "floor", "cache", "hooks")]
            cells += [ratio(rounds, name, "probes") for name in ("cache", "hooks")] + [
                ratio(rounds, "detect_head", "three")
            ]
        if not args.no_memory:
            methods = ("probes", "bare", "cache, whole", "cache, 1", "hooks")
            ours, plain, *peers = (peak(directory, n_ctx, layers, name, args) for name in methods)
            cells += [
                f"{found.above:.0f} ({found.total:.0f})" if isinstance(found, Peak) else found
                for found in (ours, plain)
            ]
            cells += [against(peer, ours) for peer in peers]
    return cells


def main() -> None:
    """Print a table of times, memory and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=DEFAULT)
    parser.add_argument("--grid", action="store_true", help=f"the sizes {GRID}")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=25, help="no round begins after this, but for the second")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--limit", type=float, default=8, help="GiB that a process may take (CPU)")
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU instead of wall seconds: for busy machines, one thread"
    )
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--no-time", action="store_true", help="memory only")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = [tuple(int(n) for n in size.split("x")) for size in (GRID if args.grid else args.sizes).split(",")]
    if args.peak:
        report_peak(args, sizes[0][0])
        return
    head = ["n_ctx x layers", "sequences"]
    if not args.no_time:
        head += ["rounds", "bare s", "probes / bare", "floor / bare", "cache / bare", "hooks / bare"]
        head += ["cache / probes", "hooks / probes", "detect_head / ours"]
    if not args.no_memory:
        head += ["probes MiB (total)", "bare MiB (total)", "cache / probes", "cache, 1 / probes", "hooks / probes"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for n_ctx, layers in sizes:
        print(f"| {' | '.join(size_row(n_ctx, layers, args))} |", flush=True)


if __name__ == "__main__":
    main()
