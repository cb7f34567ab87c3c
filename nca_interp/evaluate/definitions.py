"""Our benchmarks as inline tasks of lm-evaluation-harness: problems in memory, all draws kept, skipped problems NaN."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from nca_interp.evaluate.sampling import Sampling
from nca_interp.evaluate.scores import mean_known, pass_at_k
from nca_interp.evaluate.sources import Loaded
from nca_interp.evaluate.task import SKIPPED, Benchmark, Item

SEPARATOR = "@"
"""Between a benchmark and one of its parts in the harness's names."""
Judge = Callable[[Benchmark, Item, Sequence[str]], list[bool]]
"""Which of the answers to a problem are right."""


def parts_of(loaded: Loaded) -> dict[str, list[Item]]:
    """Problems by the harness's name of their task: one a part of the benchmark."""
    found: dict[str, list[Item]] = {}
    for item in loaded.items:
        name = f"{loaded.wanted.name}{SEPARATOR}{item.part}" if item.part else loaded.wanted.name
        found.setdefault(name.replace(":", "-"), []).append(item)
    return found


def definition(
    name: str,
    loaded: Loaded,
    items: list[Item],
    shots: int,
    sampling: Sampling,
    samples: int,
    ks: Sequence[int],
    judge: Judge,
) -> dict[str, Any]:
    """The inline task of one part: a dictionary for `lm_eval.tasks.TaskManager.load`."""
    own = loaded.wanted.benchmark
    assert own is not None
    examples = [e for e in loaded.examples if e.part == items[0].part] or loaded.examples
    metrics = ["acc", *(f"pass@{k}" for k in ks if own.kind != "choose")]
    config: dict[str, Any] = {
        "task": name,
        "custom_dataset": lambda **_: _dataset(items, examples if shots else []),
        "test_split": "test",
        "num_fewshot": shots,
        "doc_to_text": "prompt",
        "target_delimiter": own.delimiter,
        "fewshot_delimiter": own.between,
        "metric_list": [
            {"metric": m, "aggregation": mean_known, "higher_is_better": True} for m in (*metrics, "correct", "answered")
        ],
        "metadata": {"version": 1.0},
    }  # fmt: skip
    if shots:
        config |= {"training_split": "train", "fewshot_split": "train"}
    if own.kind == "choose":
        return config | {
            "output_type": "multiple_choice", "doc_to_choice": "choices", "doc_to_target": "gold", "process_results": _choice,
        }  # fmt: skip
    return config | {
        "output_type": "generate_until", "doc_to_target": "shown", "repeats": samples,
        "generation_kwargs": {
            "until": list(own.until), "max_gen_toks": own.max_tokens, "do_sample": sampling.temperature > 0,
            "temperature": sampling.temperature, "top_p": sampling.top_p,
        },
        "filter_list": [{"name": "none", "filter": [{"function": "custom", "filter_fn": lambda resps, docs: resps}]}],
        "process_results": lambda doc, results: _answers(own, items[doc["index"]], results[0], ks, judge),
    }  # fmt: skip


def _dataset(items: list[Item], examples: list[Item]) -> dict[str, Any]:
    import datasets

    splits = {"test": items, **({"train": examples} if examples else {})}
    return {
        split: datasets.Dataset.from_list([
            {
                "index": i, "prompt": item.prompt, "answer": item.answer, "shown": item.shown or item.answer.split("\x1f")[0],
                "choices": list(item.choices), "gold": item.choices.index(item.answer) if item.choices else 0,
            }
            for i, item in enumerate(of)
        ])
        for split, of in splits.items()
    }  # fmt: skip


def _choice(doc: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Whether the likeliest choice (summed log-likelihood) is right; NaN where one did not fit."""
    values = [value for value, _ in results]
    if any(math.isnan(v) for v in values):
        return {"acc": math.nan, "correct": 0, "answered": 0}
    right = values.index(max(values)) == doc["gold"]
    return {"acc": float(right), "correct": int(right), "answered": 1}


def _answers(own: Benchmark, item: Item, answers: Sequence[str], ks: Sequence[int], judge: Judge) -> dict[str, float]:
    """Share of right answers and pass@k; NaN where the problem was skipped."""
    given = [a for a in answers if a != SKIPPED]
    right = sum(judge(own, item, given)) if given else 0
    passed = {f"pass@{k}": pass_at_k(len(given), right, k) if len(given) >= k else math.nan for k in ks}
    return {"acc": right / len(given) if given else math.nan, **passed, "correct": right, "answered": len(given)}


def compare(own: Benchmark, item: Item, answers: Sequence[str]) -> list[bool]:
    """The judge of written answers: what is read in them against the key."""
    found = [own.read(a) for a in answers]
    return [a is not None and own.same(a, item.answer) for a in found]
