"""Results for other tools: the harness's results JSON and samples JSONL, and a model card of the Hugging Face hub with `model-index`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nca_interp.evaluate.scores import mean_known, pass_at_k
from nca_interp.evaluate.task import SKIPPED
from nca_interp.store import write_text


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """`results.json` and `samples_<task>.jsonl`, as the harness writes them (what is not a number becomes null)."""
    from lm_eval.utils import handle_non_serializable

    samples = results.get("samples", {})
    body = {key: value for key, value in results.items() if key != "samples"}
    for task in samples:
        _standard_errors(body["results"][task], samples[task])
    text = json.dumps(
        _finite(json.loads(json.dumps(body, default=handle_non_serializable))), indent=2, ensure_ascii=False
    )
    write_text(folder / "results.json", text + "\n")
    for task, rows in samples.items():
        lines = [
            json.dumps(
                _finite(json.loads(json.dumps(_sample(row), default=handle_non_serializable))), ensure_ascii=False
            )
            for row in rows
        ]
        write_text(folder / f"samples_{task.replace('/', '_')}.jsonl", "".join(line + "\n" for line in lines))


def _sample(row: dict[str, Any]) -> dict[str, Any]:
    """One problem as the harness saves it: arguments by name, answers as text."""
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": a for j, a in enumerate(args)} for i, args in enumerate(row["arguments"])
    }

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return "" if value == SKIPPED else str(value)

    return {
        **row,
        "arguments": arguments,
        "resps": plain(row["resps"]),
        "filtered_resps": plain(row["filtered_resps"]),
        "target": str(row["target"]),
    }


def _standard_errors(metrics: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """The standard error of every mean over problems, which the harness leaves out for means of its own kind."""
    for key in [k for k in metrics if "," in k and "_stderr" not in k]:
        name, _, chosen = key.partition(",")
        values = [
            float(r[name])
            for r in rows
            if r["filter"] == chosen and isinstance(r.get(name), int | float) and not math.isnan(r[name])
        ]
        if len(values) > 1 and name not in ("correct", "answered"):
            mean = sum(values) / len(values)
            spread = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
            metrics[f"{name}_stderr,{chosen}"] = math.sqrt(spread / len(values))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def of_problems(rows: pd.DataFrame, k: int) -> list[float]:
    """pass@k of each problem (k = 1: the share of right answers); NaN where too few answers were given."""
    return [
        pass_at_k(int(n), int(c), k) if n >= k else math.nan for n, c in zip(rows.answered, rows.correct, strict=True)
    ]  # fmt: skip


def write_card(folder: Path, name: str, frame: pd.DataFrame, ks: Sequence[int]) -> None:
    """`README.md`: a model card whose `model-index` holds every task that has a value."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    found = []
    for task, rows in frame.groupby("task", sort=False):
        for k in ks if (rows.kind != "choose").all() else (1,):
            value = mean_known([mean_known(of_problems(part, k)) for _, part in rows.groupby("part", sort=False)])
            if not math.isnan(value):
                metric = "accuracy" if k == 1 else f"pass@{k}"
                found.append(EvalResult(
                    task_type="text-generation", dataset_type=str(task), dataset_name=str(task), metric_type=metric, metric_value=round(value, 6),
                    metric_name=f"{metric}, {rows.sampling.iloc[0]}",
                ))  # fmt: skip
    data = ModelCardData(model_name=name, eval_results=found or None, library_name="transformers")
    text = "Accuracies on reasoning tasks, measured with lm-evaluation-harness by nca-interp. Problems that did not fit the context are left out."
    write_text(folder / "README.md", str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{text}\n")))
