"""What the probes cost: all of them on all heads of one checkpoint, against TransformerLens and against a bare forward pass.

`python benchmarks/analysis.py [--sizes 256x4,512x4,...] [--threads N] [--repeat N]`; a size is n_ctx x layers. Random
Llamas are made on the spot (d_model 256, 8 heads, 4096 tokens). Every stimulus has `--sequences` sequences. Every column is measured in the same process, in turn,
best of `--repeat`; peak memory each in a process of its own, above what the opened model takes.

probes        every built-in probe (copying and losses included), as `nca_interp.analyze` runs them
bare          the same stimuli through the same model, sdpa, with logits where a probe reads the loss, nothing kept
cache         TransformerLens run_with_cache of all patterns on the same stimuli, then the same scores from whole maps
detect_head   TransformerLens detect_head for its three kinds on one stimulus, against our probes for the three
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nca_interp import discover
from nca_interp.analysis.circuits import wrap
from nca_interp.analysis.forward import slices
from nca_interp.analysis.geometry import controls, next_patch, stencil
from nca_interp.analysis.measure import Measurer, open_scored
from nca_interp.analysis.stimuli import Batch, Subject

THREE = ("previous_token", "duplicate_token", "induction")
CACHE_BYTES = 2**30
"""run_with_cache gets as many sequences at a time as keep its patterns below this."""


def make_model(directory: Path, n_ctx: int, layers: int) -> Path:
    """A random Llama checkpoint."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=688, num_hidden_layers=layers, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=n_ctx, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    return directory


def subject_of(n_ctx: int) -> Subject:
    """Natural rows are random tokens: no probe's cost depends on what they say."""
    rows = np.random.default_rng(0).integers(0, 4096, (64, n_ctx + 1))
    return Subject("benchmark", 4096, n_ctx, rows=rows, spec={"kind": "text"}, rows_from="random")


def stimuli_of(measurer: Measurer, subject: Subject) -> list[tuple[Batch, bool]]:
    """Each stimulus of the probes once, and whether a probe reads its loss."""
    found: dict[Any, bool] = {}
    for probe in measurer.probes.values():
        found[probe.stimulus] = found.get(probe.stimulus, False) or probe.reads == "loss"
    return [(stimulus.build(subject), loss) for stimulus, loss in found.items()]


def bare(model: Any, work: list[tuple[Batch, bool]]) -> None:
    """Forward passes and nothing else, in the slices that the probes use."""
    with torch.inference_mode():
        for batch, loss in work:
            for part in slices(batch):
                (model if loss else model.base_model)(input_ids=torch.from_numpy(part.inputs), use_cache=False)


def cached(bridge: Any, work: list[tuple[Batch, bool]]) -> None:
    """Patterns (and for copying the outputs of heads) of all layers cached, then what the probes give, each written
    plainly on whole maps."""
    cfg = bridge.cfg
    for batch, loss in work:
        rows = max(1, CACHE_BYTES // (4 * cfg.n_layers * cfg.n_heads * batch.length**2))
        copies = batch.period is not None and batch.repeats == 2
        wanted = ("attn.hook_pattern", "attn.hook_z") if copies else ("attn.hook_pattern",)
        for start in range(0, len(batch.inputs), rows):
            part = batch.rows(start, start + rows)
            masks = masks_of(part)
            with torch.inference_mode():
                logits, cache = bridge.run_with_cache(
                    torch.from_numpy(part.inputs), names_filter=lambda name, wanted=wanted: name.endswith(wanted),
                    use_cache=False, **({} if loss else {"logits_to_keep": 1}),
                )  # fmt: skip
                if loss:
                    targets = torch.from_numpy(part.targets)
                    F.cross_entropy(logits[:, : targets.shape[1]].mT, targets, reduction="none")
                for layer in range(cfg.n_layers):
                    a = cache[f"blocks.{layer}.attn.hook_pattern"]
                    reduce_plainly(a, part, masks)
                    if copies:
                        copy_plainly(bridge, layer, a, cache[f"blocks.{layer}.attn.hook_z"], part)


def copy_plainly(bridge: Any, layer: int, a: torch.Tensor, z: torch.Tensor, batch: Batch) -> None:
    """Copying and anti-induction [batch, head] of one layer."""
    x, n = torch.from_numpy(batch.inputs), batch.period
    assert n is not None
    written = bridge.ln_final(torch.einsum("bqhd,hdm->bhqm", z[:, -n:], bridge.W_O[layer]))
    logits = torch.einsum("bhqm,bnm->bhqn", written, bridge.W_U.T[x[:, :n]])
    logits = logits - logits.mean(-1, keepdim=True)
    attended = x[:, None].expand(-1, a.shape[1], -1).gather(2, a[:, :, -n:].argmax(-1))
    for change, on in ((logits.clamp(min=0), attended), ((-logits).clamp(min=0), x[:, None, 1 : n + 1])):
        ((change * (x[:, None, None, :n] == on[..., None])).sum(-1) / change.sum(-1)).mean(-1)


def masks_of(batch: Batch) -> list[torch.Tensor]:
    """Key sets [batch or 1, 1, query, key] of the probes that read this kind of stimulus."""
    place = torch.arange(batch.length)
    back = place[:, None] - place
    found: list[torch.Tensor] = []
    if batch.frame is not None and batch.places is not None:
        grid = (place - batch.frame.start) // batch.frame.tokens
        ids = (next_patch(k, batch.frame) for k in (np.where(batch.places >= 0, batch.inputs, -1), batch.places))
        found = [torch.from_numpy((q[:, :, None] == k[:, None]) & (k[:, None] >= 0)) for q, k in ids]
        sets = [stencil(batch.frame, batch.length), *controls(batch.frame, batch.length)]
        found += [torch.from_numpy(keys)[None] for keys in (*sets, sets[0])]
        found += [(grid[:, None] - grid == n)[None] for n in (0, 1)] + [(grid[:, None] - grid >= 2)[None]]
    elif batch.opener is not None:
        opener = torch.from_numpy(batch.opener)
        found = [opener[..., None] == place, F.pad(opener[:, 1:], (0, 1), value=-1)[..., None] == place]
    elif batch.period is None and batch.length > 16:
        found = [((back >= 0) & (back <= w))[None] for w in (1, 4, 16)]
    return [mask[:, None] for mask in found]


def reduce_plainly(a: torch.Tensor, batch: Batch, masks: list[torch.Tensor]) -> None:
    """Scores [batch, head] of whole maps a [batch, head, query, key]."""
    place = torch.arange(batch.length)
    for mask in masks:
        (a * mask).sum(-1).mean(-1)
    if batch.period is not None:
        offsets = (0, 1, batch.period - 1, batch.period) if batch.repeats == 2 else (24, 24, 49, 24, 49, 74)
        profile = batch.length // 2 if batch.repeats == 2 else 0
        for d in (*offsets, *range(profile)):
            a.diagonal(-d, -2, -1).mean(-1)
        a[..., 0].mean(-1)
    elif not masks:
        (a - a.mean(0)).abs().sum((-1, -2))
    elif batch.frame is None and batch.opener is None:
        torch.special.xlogy(a, a).sum(-1).mean(-1)
        (a * (place[:, None] - place)).sum(-1).mean(-1)


def detect(bridge: Any, batch: Batch) -> None:
    """detect_head of its three kinds; it takes text only, so its model's to_tokens is the identity."""
    from transformer_lens.head_detector import detect_head

    shim = SimpleNamespace(cfg=bridge.cfg, to_tokens=lambda tokens: tokens, run_with_cache=bridge.run_with_cache)
    for sequence in torch.from_numpy(batch.inputs):
        for kind in THREE:
            with torch.inference_mode():
                detect_head(shim, sequence[None], f"{kind}_head")  # type: ignore[arg-type]


def definitions_with(sequences: int) -> dict[str, discover.Definition]:
    """The built-in probes, each on as many sequences."""
    found = {}
    for name, definition in discover.load("probes").items():
        stimulus = replace(definition.value.stimulus, sequences=sequences)
        found[name] = replace(definition, value=replace(definition.value, stimulus=stimulus))
    return found


def variants(directory: Path, n_ctx: int, sequences: int, only: str | None = None) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    from nca_interp.model.checkpoint import load_model

    definitions, subject = definitions_with(sequences), subject_of(n_ctx)
    measurer = Measurer(definitions)
    three = measurer.only(set(THREE))
    work = stimuli_of(measurer, subject)
    repeated = definitions["induction"].value.stimulus.build(subject)
    plain = load_model(directory) if only in (None, "bare") else None
    scored = open_scored(directory) if only in (None, "probes", "three") else None
    bridge = wrap(load_model(directory, attn="eager"), "benchmark") if only in (None, "cache", "detect_head") else None
    found: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(plain, work),
        "probes": lambda: measurer.measure(scored, subject),  # type: ignore[arg-type]
        "cache": lambda: cached(bridge, work),
        "detect_head": lambda: detect(bridge, repeated),
        "three": lambda: three.measure(scored, subject),  # type: ignore[arg-type]
    }
    return found if only is None else {only: found[only]}


def timed(functions: dict[str, Callable[[], Any]], repeat: int, clock: Callable[[], float]) -> dict[str, float]:
    """Best seconds of each; all of them in turn, so that a disturbance of the machine hits all."""
    best = dict.fromkeys(functions, float("inf"))
    functions["probes"]()  # stimuli, chance levels
    for _ in range(repeat):
        for name, function in functions.items():
            begin = clock()
            function()
            best[name] = min(best[name], clock() - begin)
    return best


def peak(directory: Path, n_ctx: int, name: str, args: argparse.Namespace) -> float:
    """MiB that one variant takes above the opened model, in a process of its own."""
    command = [sys.executable, __file__, "--peak", name, "--directory", str(directory), "--sizes", f"{n_ctx}x1"]
    done = subprocess.run(
        [*command, "--threads", str(args.threads), "--sequences", str(args.sequences)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


def used(field: str) -> int:
    """KiB of this process: VmRSS now, VmHWM at most so far."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])


def main() -> None:
    """Print a table of times, memory and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="256x4,512x4,1024x4,256x24,2048x4")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--sequences", type=int, default=8)
    parser.add_argument(
        "--cpu-time", action="store_true", help="CPU instead of wall seconds: for busy machines, one thread"
    )
    parser.add_argument("--no-memory", action="store_true", help="times only")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--directory", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.cpu_time else time.perf_counter
    sizes = [tuple(int(n) for n in size.split("x")) for size in args.sizes.split(",")]
    if args.peak:
        (function,) = variants(args.directory, sizes[0][0], args.sequences, args.peak).values()
        before = used("VmRSS")
        function()
        print(json.dumps((used("VmHWM") - before) / 1024))
        return
    print(
        "| n_ctx x layers | bare s | probes s | / bare | cache / probes | detect_head / ours | probes MiB | cache / probes |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for n_ctx, layers in sizes:
        with tempfile.TemporaryDirectory() as folder:
            directory = make_model(Path(folder), n_ctx, layers)
            t = timed(variants(directory, n_ctx, args.sequences), args.repeat, clock)
            m = {} if args.no_memory else {n: peak(directory, n_ctx, n, args) for n in ("probes", "cache")}
        memory = [f"{m['probes']:.0f}", f"{m['cache'] / m['probes']:.1f}x"] if m else ["", ""]
        print(
            f"| {n_ctx} x {layers} | {t['bare']:.2f} | {t['probes']:.2f} | {t['probes'] / t['bare']:.2f}x | "
            f"{t['cache'] / t['probes']:.1f}x | {t['detect_head'] / t['three']:.1f}x | {' | '.join(memory)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
