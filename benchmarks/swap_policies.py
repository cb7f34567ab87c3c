"""What each swap policy costs or gives: NCA under every policy and scratch at every embedding scale, paired seeds.

python benchmarks/swap_policies.py                    `tiny`, 4.1M synthetic tokens a seed, 0.5M of language an arm, 5 seeds
python benchmarks/swap_policies.py --language 2       2M tokens of language; --seeds, --lr, --workers, --out likewise
python benchmarks/swap_policies.py --table            only the table of what is there

It is a study like any other, killed and started again at will, and `nca-interp analyze` and `report` take its folder. All arms of a
seed share one pre-pre-training. Schedules are those of the demonstration, chosen on scratch and on the synthetic loss; nothing here
looks at a difference between arms. Intervals are paired 95 % t intervals, each of one difference alone: with twenty of them one is
expected to miss zero by chance. "Best scratch" is the scratch arm with the lowest mean, so it is flattered by being chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.start import start_table
from nca_interp.analysis.verdicts.best_scratch import scratches
from nca_interp.analysis.verdicts.evidence import final_losses
from nca_interp.analysis.verdicts.statistics import t_interval
from nca_interp.arms import stds, swap_arms
from nca_interp.cli.plan import check_folder
from nca_interp.cli.running import run_plan
from nca_interp.config import Domain, Regime, StageConfig, Study, paired_seeds
from nca_interp.data.specs import NcaSpec, TextSpec, TokenizerSpec
from nca_interp.engine.plan import make_plan
from nca_interp.machine import resolve_precision
from nca_interp.model.presets import PRESETS
from nca_interp.store import StudyDir
from nca_interp.swap_policy import SwapPolicy

BATCH = 16
MODEL = PRESETS["tiny"]
SCALES = (0.07, 0.3, 1.0)
"""Beside the default of the model, 0.02; 0.07 is about what training makes of it."""
PUBLISHED = SwapPolicy(embed_std=1.0, unembed_std=round((3 * MODEL.d_model) ** -0.5, 6))
"""The released code of arXiv 2603.10055: nn.Embedding's N(0, 1), nn.Linear's uniform default of standard deviation 1/sqrt(3 d_model)."""


class Budget(NamedTuple):
    """Tokens in millions a seed (synthetic) and an arm (language), seeds, learning rates of both stages."""

    synthetic: float
    language: float
    seeds: int
    ppt_lr: float
    lr: float


def recipe(budget: Budget, name: str = "swap-policies") -> Study:
    """The study."""
    tokens = BATCH * MODEL.n_ctx
    ppt, pt = (max(10, round(1e6 * millions / tokens)) for millions in (budget.synthetic, budget.language))
    stage = StageConfig(
        steps=pt, batch_size=BATCH, lr=budget.lr, eval_every=max(1, pt // 10), checkpoint_every=1000, checkpoints="ends"
    )
    scratch = Regime(name="scratch", label="scratch", ft=False)
    nca = Regime(name="nca", label="NCA", source=NcaSpec(grid=8, n_states=2, tau=1e-4, band=(0.4, 1.0)), ft=False)
    both = stds(SCALES) | {"published": PUBLISHED, "tied": SwapPolicy(tied=True)}
    shrink, frozen = SwapPolicy(body_scale="shrink_to_initial"), max(1, pt // 10)
    policies = both | {
        "rms": SwapPolicy(embed="match_rms"),
        "gaussian": SwapPolicy(embed="match_gaussian"),
        "resample": SwapPolicy(embed="resample"),
        "rms-in": SwapPolicy(embed="match_rms", unembed="normal"),
        "std-1-in": SwapPolicy(embed_std=1.0, unembed_std=MODEL.embed_std),
        "shrunk": shrink,
        "shrunk-rms": shrink.model_copy(update={"embed": "match_rms"}),
        "norms": SwapPolicy(body_scale="reset_norms"),
        "frozen": SwapPolicy(freeze_body=frozen),
        "frozen-1": SwapPolicy(freeze_body=frozen, embed_std=1.0),
    }
    return Study(
        name=name,
        title="NCA pre-pre-training under every swap policy",
        model=MODEL,
        regimes=(
            scratch,
            *swap_arms(scratch, both | {"std-1-in": policies["std-1-in"]}),
            nca,
            *swap_arms(nca, policies),
        ),
        domains=(
            Domain(
                name="web",
                label="prose B",
                source=TextSpec(source="site:prose-b", tokenizer=TokenizerSpec(vocab_size=512)),
            ),
        ),
        seeds=paired_seeds(budget.seeds),
        ppt=stage.model_copy(update={"steps": ppt, "lr": budget.ppt_lr, "eval_every": max(1, ppt // 10)}),
        pt=stage,
        precision="fp32",
        val_rows=256,
        deviations=("a benchmark of swap policies at the smallest size",),
    )


def table(folder: Path, study: Study) -> pd.DataFrame:
    """A row an arm: policy, token's share of the last layer and loss at step 0, final loss, and paired differences as text."""
    runs = list(Collection.open(folder).runs)
    losses = final_losses(StudyDir(folder), runs, study)
    values = losses.rows.pivot_table("value", "seed", "regime").astype(float)
    chosen = scratches(losses, study)
    best = next(iter(chosen[chosen.chosen.astype(bool)].regime), None)
    start = start_table(runs)
    start = start[start.side == "after"]
    last = start[(start.quantity == "token_share") & (start.layer == start.layer.max())].groupby("regime").value.mean()
    zero = start[start.quantity == "loss"].groupby("regime").value.mean()
    words = dict(zip(start.regime, start.policy, strict=True))
    rows = []
    for regime in (r.name for r in study.regimes if r.name in values):
        alike = regime.replace("nca", "scratch", 1) if regime.startswith("nca") else None
        against = {
            "minus scratch alike": alike if alike in values else None,
            "minus scratch": "scratch", "minus best scratch": best, "minus nca": "nca" if alike else None,
        }  # fmt: skip
        rows.append({
            "arm": regime + (" (best scratch)" if regime == best else ""), "policy": words.get(regime, ""), "share": f"{last.get(regime, float('nan')):.3f}",
            "loss at 0": f"{zero.get(regime, float('nan')):.3f}", "seeds": int(values[regime].notna().sum()), "loss": f"{values[regime].mean():.4f}",
            **{name: difference(values, regime, other) for name, other in against.items()},
        })  # fmt: skip
    return pd.DataFrame(rows)


def difference(values: pd.DataFrame, regime: str, other: str | None) -> str:
    """Mean paired difference with its 95 % t interval; empty where there is nothing to compare with."""
    if other is None or other == regime or other not in values:
        return ""
    pairs = (values[regime] - values[other]).dropna()
    found = t_interval(pairs.to_numpy()) if len(pairs) > 1 else None
    return f"{pairs.mean():+.3f}" + (f" ({found.low:+.3f} to {found.high:+.3f})" if found else "")


def markdown(frame: pd.DataFrame) -> Iterator[str]:
    """Its lines."""
    yield f"| {' | '.join(frame.columns)} |"
    yield "|" + "---|" * len(frame.columns)
    for row in frame.itertuples(index=False):
        yield f"| {' | '.join(str(cell) for cell in row)} |"


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--synthetic", type=float, default=4.1, help="million tokens of NCA a seed")
    parser.add_argument("--language", type=float, default=0.5, help="million tokens of language an arm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ppt-lr", type=float, default=2e-3)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/out/swap-policies"))
    parser.add_argument("--table", action="store_true", help="only the table of what is there")
    asked = parser.parse_args()
    study = recipe(Budget(asked.synthetic, asked.language, asked.seeds, asked.ppt_lr, asked.lr))
    if not asked.table:
        check_folder(asked.out, study)
        plan = make_plan(study, resolve_precision(study.precision, study.model.d_model), analyze=False)
        run_plan(asked.out, study, plan, asked.workers, threads=1)
    print("\n".join(markdown(table(asked.out, study))))


if __name__ == "__main__":
    main()
