"""From a study's runs to the tidy tables of docs/tables.md; a report reads nothing else."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import write_table
from nca_interp.analysis.causes.load_bearing import LOADS, load_tables
from nca_interp.analysis.causes.study import causes_table
from nca_interp.analysis.complexity.vector import summaries
from nca_interp.analysis.dynamics.contrasts import timing_table
from nca_interp.analysis.dynamics.emergence import emergence_table
from nca_interp.analysis.dynamics.persistence import persistence_table
from nca_interp.analysis.inference.study import inference_tables
from nca_interp.analysis.probing.engine import choose
from nca_interp.analysis.probing.null_study import probe_tables
from nca_interp.analysis.probing.patterns import export_trajectory, write_patterns
from nca_interp.analysis.readout.study import decode_tables
from nca_interp.analysis.records import CHECKPOINT, Run, ppt_of, read_runs, validations, weights_hash
from nca_interp.analysis.similarity.study import comparison_tables
from nca_interp.analysis.verdicts.contrasts import contrast_tables
from nca_interp.analysis.verdicts.evidence import accuracies, final_losses
from nca_interp.analysis.verdicts.plan import declared, primary
from nca_interp.analysis.verdicts.published import published_table
from nca_interp.analysis.verdicts.speedup import Curve, speedup_tables
from nca_interp.analysis.verdicts.statistics import wilson
from nca_interp.config import Study
from nca_interp.data.sample import of_tokens
from nca_interp.data.tokens import TokenFile
from nca_interp.overrides import parse
from nca_interp.store import StudyDir, read_json, write_json

RUNS = [
    "run",
    "regime",
    "label",
    "role",
    "domain",
    "seed",
    "stage",
    "state",
    "steps",
    "tokens",
    "ppt_tokens",
    "params",
    "vocab_size",
    "source",
    "description",
    "flops",
    "tokens_per_second",
    "loader_share",
    "spikes",
    "nonfinite",
    "skipped",
    "precision",
    "checkpoint_sha256",
]
METRICS = [
    *CHECKPOINT,
    "loss",
    "val_loss",
    "val_bpb",
    "grad_norm",
    "grad_norm_embed",
    "grad_norm_attn",
    "grad_norm_mlp",
    "grad_norm_norm",
    "lr",
    "tokens_per_second",
    "loader_share",
    "event",
    "skipped",
]
COMPLEXITY = [
    "source",
    "label",
    "kind",
    "regime",
    "domain",
    "n_states",
    "band_low",
    "band_high",
    "measure",
    "value",
    "unit",
    "n",
    "sd",
]
REASONING = ["run", "regime", "domain", "seed", "n_train", "n_test", "correct", "accuracy", "low", "high"]


def build_tables(study_dir: Path, probes_folder: Path | None = None) -> dict[str, pd.DataFrame]:
    """Write every table of a study into its tables/ folder and return them; a study that is half done gives what it has.

    Raises UserError where the folder holds no study or a file in it is damaged.
    """
    directory = StudyDir.open(study_dir)
    study = parse(Study, directory.read_config())
    runs = read_runs(directory)
    by_id = {run.config.id: run for run in runs}
    roles = {r.name: r.role for r in study.regimes} | {
        r.config.regime: r.config.role for r in runs if r.config.regime not in _names(study)
    }
    domains = {d.name: d.label for d in study.domains}
    losses, plan = final_losses(directory, runs, study), declared(directory, study)
    tables = {
        "runs": pd.DataFrame([_run_row(run, by_id) for run in runs], columns=RUNS),
        "metrics": pd.DataFrame([{**run.identity, **row} for run in runs for row in run.rows], columns=METRICS),
        "reasoning": _reasoning(runs),
    }
    tables |= probe_tables(directory, runs)
    reasoning = accuracies(runs, study, tables["reasoning"])
    tables |= contrast_tables(roles, domains, losses, reasoning, plan.contrasts, plan.added) | {"plan": plan.table}
    compared = {n for n, role in roles.items() if role in ("regime", "control")}
    tables |= speedup_tables(_curves(runs, by_id, compared), domains)
    tables["complexity"] = _complexity(directory, runs, study)
    tables |= inference_tables(runs) | decode_tables(runs) | comparison_tables(runs)
    hits = {name: d.value.hit for name, d in choose(None, probes_folder)[0].items() if d.value.hit is not None}
    tables["emergence"] = emergence_table(runs, tables["probes"], tables["learning"], hits)
    tables["persistence"] = persistence_table(runs, tables["probes"], hits)
    tables["timing"] = timing_table(roles, tables["runs"], tables["emergence"], tables["persistence"])
    tables["published"] = published_table({**tables, "final": losses.rows}, domains, _setting(runs, study))
    if len(causes := causes_table(runs, probes_folder)):
        tables["causes"] = causes
        tables |= load_tables(causes, tables["probes"], tables["runs"], roles, list(domains), study.margin)
    else:
        for name in ("causes", *LOADS):
            directory.table(name).unlink(missing_ok=True)
    for name, frame in tables.items():
        write_table(directory.table(name), frame)
    _write_viewer_files(directory, study, runs, roles, tables["probes"], probes_folder)
    return tables


def _names(study: Study) -> set[str]:
    return {r.name for r in study.regimes}


def _run_row(run: Run, by_id: dict[str, Run]) -> dict[str, Any]:
    config, ppt = run.config, ppt_of(run, by_id)
    events = Counter(row.get("event") for row in run.rows)
    return {
        **run.identity,
        "label": config.label,
        "role": config.role,
        "state": run.status["state"],
        "steps": config.config.steps,
        "tokens": run.tokens,
        "ppt_tokens": ppt.tokens if ppt else 0,
        "params": config.model.n_params(run.vocab_rows),
        "vocab_size": run.meta.vocab_size,
        "source": Path(config.tokens).name,
        "description": run.meta.description,
        "flops": run.flops,
        "tokens_per_second": _median(run, "tokens_per_second"),
        "loader_share": _median(run, "loader_share"),
        "spikes": events["spike"],
        "nonfinite": events["nonfinite"],
        "skipped": sum(bool(row.get("skipped")) for row in run.rows),
        "precision": config.precision,
        "checkpoint_sha256": weights_hash(run.dir),
    }


def _median(run: Run, column: str) -> float | None:
    values = [row[column] for row in run.rows if row.get(column) is not None]
    return float(np.median(values)) if values else None


def _reasoning(runs: list[Run]) -> pd.DataFrame:
    rows = []
    for run in runs:
        if run.config.stage != "ft" or not run.done or not run.dir.result.is_file():
            continue
        result = read_json(run.dir.result)
        if not result["n"]:
            continue
        share = wilson(result["correct"], result["n"])
        identity = {k: v for k, v in run.identity.items() if k != "stage"}
        rows.append({
            **identity, "n_train": run.meta.n_train, "n_test": result["n"], "correct": result["correct"],
            "accuracy": share.value, "low": share.low, "high": share.high,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=REASONING)


def _curves(runs: list[Run], by_id: dict[str, Run], regimes: set[str]) -> dict[tuple[str, str, int], Curve]:
    curves = {}
    for run in runs:
        c, losses = run.config, validations(run)
        if c.stage != "pt" or not run.done or not losses or c.domain is None or c.regime not in regimes:
            continue
        ppt = ppt_of(run, by_id)
        tokens, values = (np.array(column, dtype=float) for column in zip(*losses, strict=True))
        if not np.isfinite(values).all():
            continue
        curves[c.domain, c.regime, c.seed] = Curve(
            tokens, values, run.flops_per_token, ppt.tokens if ppt else 0.0, ppt.flops if ppt else 0.0
        )
    return curves


def _complexity(directory: StudyDir, runs: list[Run], study: Study) -> pd.DataFrame:
    """Measures of every token directory that a stage before fine-tuning trains on, a row for each regime or domain that uses it."""
    uses: dict[str, dict[tuple[str, str], str]] = {}
    for run in runs:
        c = run.config
        if c.stage == "ppt":
            # a pre-pre-training is named after the first regime of its source; transfer arms share it
            uses.setdefault(c.tokens, {})[c.regime, ""] = c.label
        elif c.stage == "pt" and c.domain is not None:
            uses.setdefault(c.tokens, {})["", c.domain] = (
                study.domain(c.domain).label if c.domain in {d.name for d in study.domains} else c.domain
            )
    rows = []
    for path, users in sorted(uses.items()):
        file = TokenFile.open(directory.path / path, verify=False)
        spec = file.meta.spec
        band = spec.get("band") or (None, None)
        found = summaries(of_tokens(file, "val", 128), of_tokens(file, "train", max(1, 2**19 // file.meta.seq_len)))
        for (regime, domain), label in users.items():
            base = {
                "source": Path(path).name, "label": label, "kind": spec["kind"], "regime": regime, "domain": domain,
                "n_states": spec.get("n_states"), "band_low": band[0], "band_high": band[1],
            }  # fmt: skip
            rows += [{**base, **m._asdict()} for m in found]
    return pd.DataFrame(rows, columns=COMPLEXITY)


def _setting(runs: list[Run], study: Study) -> str:
    """Our model and budget in words."""
    pt = [run for run in runs if run.config.stage == "pt"]
    if not pt:
        return "no pre-training run"
    ppt = [run.tokens for run in runs if run.config.stage == "ppt"]
    params = max(run.config.model.n_params(run.meta.vocab_size) for run in pt)
    return (
        f"{params / 1e6:.2g} M parameters, {max(ppt, default=0) / 1e6:.2g} M tokens of pre-pre-training, "
        f"{max(run.tokens for run in pt) / 1e6:.2g} M tokens of language, {len(study.seeds)} seed(s)"
    )


def _write_viewer_files(
    directory: StudyDir, study: Study, runs: list[Run], roles: dict[str, str], probes: pd.DataFrame, folder: Path | None
) -> None:
    """patterns.npz and .json, trajectory.json, probes.json."""
    measured = set(probes.probe.unique())
    definitions, _ = choose(None, folder)
    docs = [d.value.describe() for name, d in definitions.items() if name in measured]
    write_json(directory.tables / "probes.json", docs)
    write_patterns(directory, study, runs, roles, probes)
    first = primary(roles)
    source = next((r for r in runs if r.config.stage == "ppt" and r.config.regime == first), None)
    source = source or next((r for r in runs if r.config.stage == "ppt" and r.meta.spec.get("kind") == "nca"), None)
    shown = export_trajectory(directory.path / source.config.tokens, source.config.label) if source else None
    if shown is not None:
        write_json(directory.tables / "trajectory.json", shown)
    else:
        (directory.tables / "trajectory.json").unlink(missing_ok=True)
