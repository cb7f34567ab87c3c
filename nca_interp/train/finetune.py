"""Exact-match accuracy of a fine-tuned model on held-out questions: greedy decoding, last stated answer against the key."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from nca_interp.evaluate.answers import plain as normalise
from nca_interp.model.roles import context_length
from nca_interp.store import RunDir, read_json


@torch.no_grad()
def exact_match(
    model: Any, tokens_dir: Path, batch_size: int = 64, say: Callable[[str, float], None] = lambda what, share: None
) -> dict[str, Any]:
    """Answer every question of `test.jsonl` and compare with its final answer; `say(what, share done)` after every batch.

    The answer is the text after the last "####" of the greedy continuation (up to the end token of meta.json), up to the end of its line, stripped of
    spaces and thousands separators. Returns n, correct, and every question with both answers (nothing is skipped: a
    question that leaves no room for an answer counts as wrong and is counted in `too_long`).
    """
    tokenizer = Tokenizer.from_file(str(tokens_dir / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # as the training problems were
    items = [json.loads(line) for line in (tokens_dir / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts = [tokenizer.encode(item["prompt"], add_special_tokens=False).ids for item in items]
    n_ctx = context_length(model.config.get_text_config())
    answers: list[str | None] = [None] * len(items)
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        if len(prompt) < n_ctx:
            by_length.setdefault(len(prompt), []).append(index)
    end = read_json(tokens_dir / "meta.json")["end_id"]
    model.eval()
    answered = 0
    # equal lengths together: no padding, so the result does not depend on how questions are batched
    for length, members in sorted(by_length.items()):
        for start in range(0, len(members), batch_size):
            chosen = members[start : start + batch_size]
            prompt_ids = torch.tensor([prompts[i] for i in chosen], device=model.device)
            generated = _greedy(model, prompt_ids, n_ctx - length, end)
            for index, row in zip(chosen, generated.tolist(), strict=True):
                text = tokenizer.decode(row[: row.index(end)] if end in row else row, skip_special_tokens=False)
                answers[index] = extract_answer(text)
            answered += len(chosen)
            say(f"answers to {answered} of {len(items)} problems", answered / len(items))
    results = [
        {"question": item["question"], "expected": item["final_answer"], "answer": answer}
        for item, answer in zip(items, answers, strict=True)
    ]
    correct = sum(r["answer"] is not None and r["answer"] == normalise(r["expected"]) for r in results)
    too_long = sum(len(p) >= n_ctx for p in prompts)
    return {"n": len(results), "correct": correct, "too_long": too_long, "results": results}


def _greedy(model: Any, prompt: torch.Tensor, room: int, end: int) -> torch.Tensor:
    """Greedy continuation of `prompt` [batch, length] with a key-value cache; stops when every row has ended."""
    cache, step, out = None, prompt, []
    ended = torch.zeros(len(prompt), dtype=torch.bool, device=prompt.device)
    for _ in range(room):
        result = model(input_ids=step, past_key_values=cache, use_cache=True)
        cache = result.past_key_values
        step = result.logits[:, -1:].argmax(-1)
        out.append(step)
        ended |= step[:, 0] == end
        if ended.all():
            break
    return torch.cat(out, 1)


def extract_answer(text: str) -> str | None:
    """What stands after the last "####", normalised; None if nothing does."""
    _, mark, tail = text.rpartition("####")
    return normalise(tail.strip().split("\n")[0]) if mark and tail.strip() else None


def chosen_step(run: RunDir, steps: list[int], how: str) -> int:
    """The checkpoint that is asked the held-out problems: the last, or (`best`) that with the lowest validation loss, the earlier
    of two that are equal. Validation problems are other ones than those that are reported."""
    if how != "best":
        return steps[-1]
    losses = {row["step"]: row["val_loss"] for row in run.read_metrics() if row.get("val_loss") is not None}
    known = [step for step in steps if step in losses and math.isfinite(losses[step])]
    return min(known, key=lambda step: (losses[step], step)) if known else steps[-1]
