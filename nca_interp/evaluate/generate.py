"""Answers in batches: every prompt is read once, however many answers are drawn to it, and its keys and values are kept.

What is drawn is a function of (seed of the draw, position) alone: the uniform numbers come from a counter-based generator on
the processor, so neither the batch, nor the order, nor an interruption changes an answer (up to the order of floating-point
sums in the model).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nca_interp.base import stream_seed
from nca_interp.evaluate.sampling import Sampling

LOOK_EVERY = 8
"""Tokens between looks for stop strings; what comes after one is cut off all the same."""
PREFILL_TOKENS = 8192
"""Prompt tokens of one forward pass, about."""


@dataclass(frozen=True)
class Request:
    """One problem, and the draws that are wanted of it."""

    prompt: tuple[int, ...]
    draws: tuple[int, ...]
    """Seeds, one an answer."""
    room: int
    """Most tokens of an answer, at least 1."""
    until: tuple[str, ...] = ()
    """An answer ends before the first of these."""
    index: int = 0


@dataclass
class _Rows:
    """Rows that are drawn together; `ids` grows by a token a step."""

    requests: list[Request]
    """Of each row."""
    places: list[tuple[int, int]]
    """Of each row: index of its request, and of its draw there."""
    uniforms: torch.Tensor
    ids: list[list[int]] = field(default_factory=list)


@torch.no_grad()
def generate(
    model: Any, decode: Callable[[list[int]], str], requests: Sequence[Request], sampling: Sampling, end: int | None,
    batch: int,
) -> Iterator[tuple[int, list[str]]]:  # fmt: skip
    """Answers as (index of the request, texts in the order of its draws), as they are finished; at most `batch` rows at a time.

    An answer ends before token `end`, before a stop string, or when its room is full. Prompts of about one length go together.
    """
    if requests:
        model.eval()
    for group in groups(requests, batch):
        found: dict[int, list[str | None]] = {r.index: [None] * len(r.draws) for r in group}
        for rows in _batches(group, batch, sampling):
            for (index, draw), text in _draw(model, decode, rows, sampling, end):
                found[index][draw] = text
        for index, texts in found.items():
            yield index, [text or "" for text in texts]


def groups(requests: Sequence[Request], batch: int) -> Iterator[list[Request]]:
    """Requests of about one length: as many as fill a batch with all their draws, at least one."""
    group: list[Request] = []
    rows = tokens = 0
    for request in sorted(requests, key=lambda r: (len(r.prompt), r.index)):
        if group and (rows + len(request.draws) > batch or tokens + len(request.prompt) > PREFILL_TOKENS):
            yield group
            group, rows, tokens = [], 0, 0
        group.append(request)
        rows += len(request.draws)
        tokens += len(request.prompt)
    if group:
        yield group


def _batches(group: list[Request], batch: int, sampling: Sampling) -> Iterator[_Rows]:
    rows = [(request, draw) for request in group for draw in range(len(request.draws))]
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        longest = max(request.room for request, _ in part)
        drawn = np.zeros((len(part), longest if sampling.temperature else 0))
        for row, (request, draw) in enumerate(part):
            if sampling.temperature:
                drawn[row] = np.random.Generator(np.random.Philox(request.draws[draw])).random(longest)
        yield _Rows([r for r, _ in part], [(r.index, d) for r, d in part], torch.from_numpy(drawn), [[] for _ in part])


def _draw(
    model: Any, decode: Callable[[list[int]], str], rows: _Rows, sampling: Sampling, end: int | None
) -> Iterator[tuple[tuple[int, int], str]]:
    """Draw all rows to their ends; those that have ended leave the batch."""
    device = next(model.parameters()).device
    cache, logits, mask = _read(model, rows.requests, device)
    alive = list(range(len(rows.requests)))
    longest = max(request.room for request in rows.requests)
    for step in range(longest):
        uniform = rows.uniforms[alive, step] if sampling.temperature else None
        chosen = choose(logits, sampling, uniform)
        for row, token in zip(alive, chosen.tolist(), strict=True):
            rows.ids[row].append(token)
        look = (step + 1) % LOOK_EVERY == 0
        stay = [
            place for place, row in enumerate(alive)
            if not _over(rows.ids[row], rows.requests[row], end, decode if look else None)
        ]  # fmt: skip
        if len(stay) < len(alive):
            for row in {alive[i] for i in set(range(len(alive))) - set(stay)}:
                yield rows.places[row], text_of(rows.ids[row], rows.requests[row], end, decode)
            if not stay:
                return
            kept = torch.tensor(stay, device=device)
            cache.batch_select_indices(kept)
            alive, mask, chosen = [alive[i] for i in stay], mask[kept], chosen[kept]
        positions = mask.sum(1, keepdim=True)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
        result = model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        logits, cache = result.logits[:, -1], result.past_key_values


def _read(model: Any, requests: list[Request], device: torch.device) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Cache, logits of the next token and mask of rows; a prompt that several rows share is read once."""
    different = list(dict.fromkeys(r.prompt for r in requests))
    longest = max(map(len, different))
    ids = torch.zeros(len(different), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(different):  # on the left, so that the last column is everyone's last token
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    result = model(
        input_ids=ids.to(device), attention_mask=mask.to(device), position_ids=positions.to(device), use_cache=True
    )
    number = {prompt: row for row, prompt in enumerate(different)}
    owner = torch.tensor([number[r.prompt] for r in requests], device=device)
    cache = result.past_key_values
    cache.batch_select_indices(owner)
    return cache, result.logits[:, -1][owner], mask.to(device)[owner]


def choose(logits: torch.Tensor, sampling: Sampling, uniform: torch.Tensor | None) -> torch.Tensor:
    """Next token of each row from `logits` [row, vocabulary]: the likeliest, or by inversion at `uniform` [row] in [0, 1)."""
    if not sampling.temperature:
        return logits.argmax(-1)
    assert uniform is not None
    probabilities = torch.softmax(logits.double() / sampling.temperature, -1)
    ordered, token = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    total = ordered.cumsum(-1)
    if sampling.top_p < 1:
        total = total.masked_fill(total - ordered >= sampling.top_p, 0).cummax(-1).values
    at = torch.searchsorted(total, uniform.to(total)[:, None] * total[:, -1:], right=True)
    return token.gather(-1, at.clamp(max=total.shape[-1] - 1))[:, 0]


def _over(ids: list[int], request: Request, end: int | None, decode: Callable[[list[int]], str] | None) -> bool:
    if ids[-1] == end or len(ids) >= request.room:
        return True
    if decode is None or not request.until:
        return False
    text = decode(ids)
    return any(stop in text for stop in request.until)


def text_of(ids: list[int], request: Request, end: int | None, decode: Callable[[list[int]], str]) -> str:
    """An answer up to its end token, its room or its first stop string."""
    kept = ids[: request.room]
    text = decode(kept[: kept.index(end)] if end in kept else kept)
    cuts = [at for stop in request.until if stop and (at := text.find(stop)) >= 0]
    return text[: min(cuts)] if cuts else text


def draw_seeds(seed: int, task: str, prompt: str, draws: range) -> tuple[int, ...]:
    """Seeds of some draws of one problem."""
    return tuple(stream_seed(seed, "answers", task, prompt, draw) for draw in draws)
