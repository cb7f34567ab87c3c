"""What each preset needs, from tiny to the paper's 1.6B parameters x 9B tokens: writes the tables of docs/scaling.md.

`python benchmarks/scaling.py` makes them from the formulas of `--dry-run` and the last measurement (scaling.json beside it);
`python benchmarks/scaling.py --measure tiny mini small 50m` trains a few steps of each first (1 thread, fp32).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp import discover, machine
from nca_interp.config import MODULES, Seeds, StageConfig, Study
from nca_interp.data.specs import DyckSpec
from nca_interp.engine.cost import disk_cost, memory, run_cost, size
from nca_interp.engine.plan import make_plan
from nca_interp.model.presets import PRESETS
from nca_interp.train.run import RunConfig

MEASURED = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs" / "scaling.md"
GPU_PEAK, GPU_UTILISATION = 989e12, 0.40
"""An H100 or H200 (SXM): stated dense bf16 peak, and the share of it that is assumed. Unmeasured."""


class Shape(NamedTuple):
    """Where a preset's budget comes from, and what is measured of it: vocabulary, rows a step, steps."""

    recipe: str
    precision: str
    vocab: int
    rows: int
    steps: int


SHAPES = {
    "tiny": Shape("demo", "fp32", 512, 8, 40),
    "mini": Shape("laptop", "fp32", 2048, 16, 12),
    "small": Shape("laptop", "fp32", 2048, 16, 6),
    "50m": Shape("gpu-long", "fp32", 50_258, 1, 3),
    "160m": Shape("gpu-long", "bf16", 50_257, 32, 0),
    "400m": Shape("paper-400m", "bf16", 50_257, 8, 0),
    "600m": Shape("paper-600m", "bf16", 50_257, 8, 0),
    "1.6b": Shape("paper", "bf16", 50_257, 8, 0),
}


def recipe(preset: str) -> Study:
    """The recipe that uses a preset; for sizes between recipes, the smaller one's with this model."""
    study = discover.find("runs", SHAPES[preset].recipe).value()
    if SHAPES[preset].recipe.startswith("paper"):
        return study
    return study.model_copy(update={"model": PRESETS[preset]})


def needs() -> str:
    """One NCA pre-pre-training and its pre-training on web text, as `train RECIPE --regime nca --domain web --seed 0`."""
    measured = json.loads(MEASURED.read_text())["presets"]
    rows = [
        "| preset | budget of | parameters | tokens, both stages | FLOPs | memory | a checkpoint | a state | disk, end / peak | hours, 1 CPU thread | hours, 1 H100 (unmeasured) |",
        "|" + "---|" * 11,
    ]
    for preset in SHAPES:
        precision = "bf16" if preset not in ("tiny", "mini", "small") else "fp32"
        plan = make_plan(recipe(preset), precision, "nca", "web", 0, analyze=False)  # type: ignore[arg-type]
        device = "cuda" if precision == "bf16" else "cpu"
        costs, disk = [run_cost(run, device) for run in plan.runs], disk_cost(plan, 1)
        tokens = [run.config.steps * run.config.batch_size * run.model.n_ctx for run in plan.runs]
        flops = sum(job.flops for job in plan.jobs)
        rate = measured.get(preset, {}).get("flops_per_second")
        here = hours(flops / rate) if rate else "-"
        there = hours(flops / (GPU_PEAK * GPU_UTILISATION)) if device == "cuda" else "-"
        rows.append(
            f"| {preset} | `{SHAPES[preset].recipe}` | {costs[-1].parameters / 1e6:,.1f}M | {' + '.join(short(t) for t in tokens)} | "
            f"{flops:.1e} | {size(max(c.memory for c in costs))} | {size(costs[-1].checkpoint)} | {size(costs[-1].state)} | "
            f"{size(disk.tokens + disk.runs)} / {size(disk.peak)} | {here} | {there} |"
        )
    return "\n".join(rows)


def hours(seconds: float) -> str:
    """Hours with two digits."""
    return f"{seconds / 3600:,.0f}" if seconds >= 36_000 else f"{seconds / 3600:.2g}"


def short(n: float) -> str:
    """Tokens as 0.2M or 9.0B."""
    return f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.1f}M"


def checks() -> str:
    """The formulas beside the last measurement."""
    found = json.loads(MEASURED.read_text())
    rows = [
        "| preset | rows x tokens a step | tokens/s | of the matrix product's rate | peak memory, measured | formula | ratio | checkpoint, measured / formula |",
        "|" + "---|" * 8,
    ]
    for preset, row in found["presets"].items():
        rows.append(
            f"| {preset} | {row['rows']} x {row['n_ctx']} | {row['tokens_per_second']:,.0f} | {row['utilisation']:.0%} | {size(row['memory'])} | "
            f"{size(row['memory_formula'])} | {row['memory_formula'] / row['memory']:.2f} | {row['checkpoint'] / row['checkpoint_formula']:.3f} |"
        )
    return f"{found['conditions']}\n\n" + "\n".join(rows)


def filled(page: str) -> str:
    """The page with both tables put between their marks."""
    for mark, table in (("needs", needs()), ("checks", checks())):
        before, _, rest = page.partition(f"<!-- {mark} -->")
        _, _, after = rest.partition(f"<!-- end of {mark} -->")
        page = f"{before}<!-- {mark} -->\n{table}\n<!-- end of {mark} -->{after}"
    return page


def measure(preset: str) -> dict[str, Any]:
    """Train a few real steps in a process of its own; returns rate and peak memory beyond the bare process."""
    done = subprocess.run([sys.executable, __file__, "--here", preset], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def train_here(preset: str) -> dict[str, Any]:
    """Body of `measure`: Dyck strings with the recipe's vocabulary, the real loop, peak memory as the kernel counts it."""
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401

    from nca_interp.data.tokens import write_tokens
    from nca_interp.store import StudyDir
    from nca_interp.train.loop import train

    torch.set_num_threads(1)
    shape, model = SHAPES[preset], PRESETS[preset]
    spec = DyckSpec(k=shape.vocab // 2)
    stage = StageConfig(steps=shape.steps, batch_size=shape.rows, lr=1e-4, checkpoints="ends", eval_every=shape.steps)
    run = RunConfig(
        id="measured", stage="ppt", regime="dyck", label="Dyck", role="regime", domain=None, seed=0,
        seeds=Seeds(init=0, order=0, rules=0), model=model, config=stage, tokens="tokens/dyck",
        source=spec.model_dump(mode="json"), parent=None, keep=MODULES, reinit_to="initial", precision="fp32",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        study = StudyDir(Path(folder))
        write_tokens(
            study.tokens / "dyck", spec, n_train=shape.rows * shape.steps, n_val=1, seq_len=model.n_ctx, seed=0
        )
        small = model.model_copy(update={"n_layers": 1, "d_model": 16, "n_heads": 2, "d_mlp": 16})
        first = stage.model_copy(update={"batch_size": 1, "steps": 1})  # imports and caches that every process has
        train(study, run.model_copy(update={"id": "first", "model": small, "config": first}))
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = _kilobytes("VmRSS") * 1024
        train(study, run)
        peak = _kilobytes("VmHWM") * 1024
        directory = study.run(run.id)
        rates = [row["tokens_per_second"] for row in directory.read_metrics()[2:]]
        checkpoint = sum(path.stat().st_size for path in directory.checkpoint(shape.steps).iterdir())
    rate = statistics.median(rates)
    flops = rate * model.flops_per_token(shape.vocab)
    return {
        "rows": shape.rows, "n_ctx": model.n_ctx, "tokens_per_second": rate, "flops_per_second": flops,
        "utilisation": flops / machine.matmul_flops("fp32", 1), "memory": peak - before, "process": before,
        "memory_formula": memory(model, shape.vocab, shape.rows, "fp32"),
        "checkpoint": checkpoint, "checkpoint_formula": run_cost(run).checkpoint,
    }  # fmt: skip


def _kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    """Measure if asked, then print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs="+", default=[], choices=[p for p, shape in SHAPES.items() if shape.steps])
    parser.add_argument("--here", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(train_here(args.here)))
        return
    if args.measure:
        import torch

        found = {preset: measure(preset) for preset in args.measure}
        conditions = f"{machine.cpu_name()}, 1 thread, fp32, torch {torch.__version__}."
        MEASURED.write_text(json.dumps({"conditions": conditions, "presets": found}, indent=1) + "\n")
    PAGE.write_text(filled(PAGE.read_text()))
    print(needs(), checks(), sep="\n\n")


if __name__ == "__main__":
    main()
