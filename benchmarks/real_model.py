"""A model that others trained, through everything (docs/real_models.md; `smollm2.py` makes one).

`python benchmarks/real_model.py STEP FOLDER`, any Hugging Face folder:

agree       every head score again, straight from its definition on whole attention maps: those of the model's own eager
            attention (output_attentions) and those of TransformerLens (run_with_cache); the largest differences. --sequences
            of each stimulus; its heads' copying only by TransformerLens
cost        `nca-interp analyze --checkpoint FOLDER` as a user calls it (further options go to it): wall time, CPU time, peak
            memory of all its processes
induction   the heads above the induction probe's threshold, mean-ablated together on repeated random tokens, by
            `ablation.ablate_sets` and once more by hooks on a full pass, beside as many other heads of the same layers
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

MAP_BYTES = 2**29
"""Sequences go through together as long as their attention maps of all layers are below this."""
DRAWS = 8
"""Sets of other heads that are ablated."""


def opened(folder: Path) -> tuple[Any, Any]:
    """Model and subject."""
    from nca_interp.analysis.probing.measure import open_scored
    from nca_interp.analysis.stimuli.subject import describe

    model = open_scored(folder)
    return model, describe(folder, model.config, {})


def agree(folder: Path, sequences: int) -> None:
    """Of each probe the largest difference of its scores from both references, and the largest score."""
    from nca_interp import discover
    from nca_interp.analysis.attention.kernel import FAST
    from nca_interp.analysis.causes.transformer_lens import to_transformer_lens
    from nca_interp.analysis.probing.measure import Measurer

    model, subject = opened(folder)
    model.set_attn_implementation("eager")
    bridge = to_transformer_lens(deepcopy(model), "model")
    by_stimulus: dict[Any, dict[str, Any]] = {}
    for name, definition in discover.load("probes").items():
        probe = definition.value
        if probe.reads in ("attention", "heads"):
            fewer = replace(probe, stimulus=replace(probe.stimulus, sequences=sequences))
            by_stimulus.setdefault(fewer.stimulus, {})[name] = replace(definition, value=fewer)
    worst = [0.0, 0.0]
    print(f"{'probe':24} {'heads':>6} {'highest':>9} {'eager':>9} TransformerLens")
    for stimulus, definitions in sorted(by_stimulus.items(), key=lambda item: item[0].build(subject).inputs.size):
        batch = stimulus.build(subject)
        model.set_attn_implementation(FAST)
        found = Measurer(definitions).measure(model, subject)
        table = pd.DataFrame(found.rows).set_index(["probe", "layer", "head"]).value.sort_index()
        model.set_attn_implementation("eager")
        apart = [differences(maps, batch, table) for maps in (eager_maps(model, batch), lens_maps(bridge, batch))]
        for name in definitions:
            if name not in table.index:
                print(f"{name:24} not measured: {found.skipped.get(name) or found.problems.get(name)}")
                continue
            pair = [float(one.get(name, np.nan)) for one in apart]
            worst = list(np.fmax(worst, pair))
            told = f"{table[name].size:6} {table[name].max():9.4f} {pair[0]:9.1e} {pair[1]:9.1e}"
            print(f"{name:24} {told}", flush=True)
    print(f"largest difference: eager {worst[0]:.1e}, TransformerLens {worst[1]:.1e}")


def pieces(batch: Any, heads: int) -> Iterator[Any]:
    """Its sequences, as many at a time as MAP_BYTES allows for the maps of so many heads."""
    rows = max(1, MAP_BYTES // (4 * heads * batch.length**2))
    for start in range(0, len(batch.inputs), rows):
        yield batch.rows(start, start + rows)


def eager_maps(model: Any, batch: Any) -> Iterator[tuple[Any, Any, list[Any]]]:
    """(sequences, patterns [layer][batch, head, query, key], nothing) of the model's own eager attention."""
    import torch

    for part in pieces(batch, model.config.num_hidden_layers * model.config.num_attention_heads):
        with torch.inference_mode():
            out = model.base_model(torch.from_numpy(part.inputs), output_attentions=True, use_cache=False)
        yield part, list(out.attentions), []


def lens_maps(bridge: Any, batch: Any) -> Iterator[tuple[Any, Any, list[Any]]]:
    """The same of TransformerLens, and where a block is repeated what each head writes to the logits of its tokens, by layer."""
    import torch

    n_layers = bridge.cfg.n_layers
    for part in pieces(batch, n_layers * bridge.cfg.n_heads):
        repeats = part.period is not None and part.repeats == 2
        wanted = ("attn.hook_pattern", "attn.hook_z") if repeats else ("attn.hook_pattern",)
        with torch.inference_mode():
            _, cache = bridge.run_with_cache(
                torch.from_numpy(part.inputs), names_filter=lambda name, wanted=wanted: name.endswith(wanted),
                use_cache=False, logits_to_keep=1,
            )  # fmt: skip
            patterns = [cache[f"blocks.{n}.attn.hook_pattern"] for n in range(n_layers)]
            z = [cache[f"blocks.{n}.attn.hook_z"] for n in range(n_layers)] if repeats else []
            yield part, patterns, [written(bridge, n, z[n], part) for n in range(len(z))]


def written(bridge: Any, layer: int, z: Any, batch: Any) -> Any:
    """Logits [batch, head, query of the second block, token of the context] of what single heads write."""
    import torch

    late = slice(batch.start + batch.period, batch.start + 2 * batch.period)
    vectors = torch.einsum("bqhd,hdm->bhqm", z[:, late], bridge.W_O[layer])
    vectors = bridge.ln_final(vectors) - bridge.ln_final(torch.zeros_like(vectors))
    return torch.einsum("bhqm,bnm->bhqn", vectors, bridge.W_U.T[torch.from_numpy(batch.inputs)[:, : late.start]])


def differences(parts: Iterator[tuple[Any, Any, list[Any]]], batch: Any, table: pd.Series) -> dict[str, float]:
    """By probe the largest difference between its scores in `table` and those of the maps, by the tests' definitions."""
    from tests.analysis.reference import KEYS, SHAPES, score

    names = table.index.unique("probe")
    sums: dict[tuple[str, int], Any] = {}
    for part, patterns, logits in parts:
        for layer, pattern in enumerate(patterns):
            a = pattern.double()
            scores = {name: score(name, a, part) for name in names if name in KEYS or name in SHAPES}
            if logits:
                scores |= {n: v for n, v in by_rank(pattern, logits[layer], part).items() if n in names}
            for name, value in scores.items():
                sums[name, layer] = sums.get((name, layer), 0.0) + value * len(part.inputs) / len(batch.inputs)
    found: dict[str, float] = {}
    for (name, layer), value in sums.items():
        ours = table[name, layer].to_numpy(float)
        found[name] = max(found.get(name, 0.0), float(np.abs(ours - value).max()))
    return found


def by_rank(pattern: Any, logits: Any, batch: Any) -> dict[str, np.ndarray]:
    """copying and anti_induction [head], by sorting the logits."""
    import torch

    x, n = torch.from_numpy(batch.inputs), batch.period
    late = torch.arange(batch.start + n, batch.start + 2 * n)
    stripe = pattern[:, :, late, late - n + 1]

    def advantage(tokens: Any) -> Any:
        place = (x[:, None, None, : batch.start + n] == tokens[..., None]).int().argmax(-1, keepdim=True)
        return 2 * logits.argsort(-1).argsort(-1).gather(-1, place)[..., 0] / (logits.shape[-1] - 1) - 1

    attended = x[:, None].expand(-1, pattern.shape[1], -1).gather(2, pattern[:, :, late].argmax(-1))
    followed = x[:, None, late - n + 1].expand(-1, pattern.shape[1], -1)
    return {
        "copying": advantage(attended).mean((0, 2)).numpy(),
        "anti_induction": -(stripe * advantage(followed)).mean((0, 2)).numpy(),
    }


def cost(folder: Path, further: list[str]) -> None:
    """Run the command; processes are looked at twice a second."""
    import psutil

    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "nca_interp", "analyze", "--checkpoint", str(folder)]
        began, peak, used = time.perf_counter(), 0, dict[int, float]()
        process = psutil.Popen([*command, "--out", f"{out}/analysis", *further])
        while process.poll() is None:
            everyone = [process, *process.children(recursive=True)]
            peak = max(peak, sum(pss(p) for p in everyone))
            used |= {p.pid: spent(p, used.get(p.pid, 0.0)) for p in everyone}
            time.sleep(0.5)
        wall = time.perf_counter() - began
        report = Path(out) / "analysis" / "report.html"
        size = f"{report.stat().st_size / 2**20:.1f} MiB" if report.is_file() else "none"
    print(f"exit code {process.returncode}, wall {wall:.0f} s, CPU {sum(used.values()):.0f} s of all its processes")
    print(
        f"peak memory of all its processes {peak / 2**30:.2f} GiB, report {size}; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )


def spent(process: Any, before: float) -> float:
    """Processor seconds of a process; `before` once it is gone. Workers are no children that anybody waits for, so no sum of the system has them."""
    import psutil

    try:
        times = process.cpu_times()
        return float(times.user + times.system)
    except psutil.Error:
        return before


def pss(process: Any) -> int:
    """Bytes of a process, what it shares counted in parts; 0 once it is gone."""
    import psutil

    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


def induction(folder: Path) -> None:
    """What the induction heads carry together on repeated tokens."""
    import torch

    from nca_interp import discover
    from nca_interp.analysis.causes.ablation import ablate_sets, mean_outputs
    from nca_interp.analysis.causes.effects import repeated_task
    from nca_interp.analysis.causes.resume import Trunk
    from nca_interp.analysis.probing.measure import Measurer
    from nca_interp.analysis.probing.probe import TOP_SHARE

    model, subject = opened(folder)
    probe = {"induction": discover.load("probes")["induction"]}
    rows = Measurer(probe).measure(model, subject).rows
    scores = {(row["layer"], row["head"]): row["value"] for row in rows}
    best = sorted(scores, key=lambda head: -scores[head])
    heads = frozenset(head for head in best if scores[head] > probe["induction"].value.hit)
    top = frozenset(best[: math.ceil(TOP_SHARE * len(best))])
    trunk, task, rng = Trunk(model), repeated_task(subject), np.random.default_rng(0)
    counts = pd.Series([layer for layer, _ in heads]).value_counts()
    free = {layer: [h for h in range(trunk.n_heads) if (layer, h) not in heads] for layer in counts.index}
    others = [
        frozenset((layer, int(h)) for layer, n in counts.items() for h in rng.choice(free[layer], n, replace=False))
        for _ in range(DRAWS)
    ]
    changes = ablate_sets(trunk, task, [heads, top, *others])
    loss = {chosen: float(metrics["repeated_token_loss"].mean()) for chosen, metrics in changes.items()}
    again = by_hooks(model, task, heads, mean_outputs(trunk, task))
    print(f"{len(heads)} heads: {', '.join(f'{n}.{h} {scores[n, h]:.3f}' for n, h in best[: len(heads)])}")
    print(
        f"repeated-token loss, nats: {again[0]:.4f} whole, {loss[heads]:+.4f} without them; by hooks {again[1] - again[0]:+.4f}"
    )
    print(
        f"without {DRAWS} sets of as many other heads of the same layers: {', '.join(f'{loss[o]:+.3f}' for o in others)}"
    )
    assert torch.isfinite(torch.tensor(list(loss.values()))).all()


def by_hooks(model: Any, task: Any, heads: Any, means: Any) -> tuple[float, float]:
    """repeated_token_loss of the whole model and of the ablated one, by two plain passes."""
    import torch

    def edit(layer: int) -> Any:
        def replaced(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
            z = args[0].unflatten(-1, (means[layer].shape[1], -1)).clone()
            for head in (h for n, h in heads if n == layer):
                z[:, :, head] = means[layer][:, head]
            return (z.flatten(-2),)

        return replaced

    tokens, targets = (torch.from_numpy(x) for x in (task.batch.inputs, task.batch.targets))
    late = slice(task.batch.start + task.batch.period, task.batch.start + 2 * task.batch.period - 1)
    losses = []
    for chosen in ((), heads):
        handles = [
            model.base_model.layers[n].self_attn.o_proj.register_forward_pre_hook(edit(n))
            for n in {n for n, _ in chosen}
        ]
        with torch.inference_mode():
            logits = model(tokens, use_cache=False).logits[:, late]
        losses.append(float(torch.nn.functional.cross_entropy(logits.mT, targets[:, late])))
        for handle in handles:
            handle.remove()
    return losses[0], losses[1]


def main() -> None:
    """One step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("agree", "cost", "induction"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sequences", type=int, default=2, help="agree: sequences of each stimulus")
    arguments, further = parser.parse_known_args()
    if further and arguments.step != "cost":
        parser.error(f"unknown: {' '.join(further)}")
    if arguments.step == "agree":
        agree(arguments.folder, arguments.sequences)
    elif arguments.step == "cost":
        cost(arguments.folder, further)
    else:
        induction(arguments.folder)


if __name__ == "__main__":
    main()
