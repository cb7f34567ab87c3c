"""One prompt through one model: rows of what is said at each token, at each layer, and by which part."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from nca_interp.analysis.attention.access import backbone, reading
from nca_interp.analysis.attention.kernel import Layer
from nca_interp.analysis.attention.losses import read_logits
from nca_interp.analysis.attention.view import Attention
from nca_interp.analysis.causes.lens import log_probabilities
from nca_interp.analysis.causes.resume import Passage, Trunk
from nca_interp.analysis.prompts.attribution import Directions, Parts, directions, neurons, parts
from nca_interp.analysis.prompts.texts import Encoder, Options
from nca_interp.analysis.stimuli.base import Batch, NotApplicable

Row = dict[str, Any]
Head = tuple[int, int]
UNCAPPED = 1e-3
"""Contributions are of the logits before a cap where their sum and the model's logit differ by more than this."""


class Said(NamedTuple):
    """What the model says at each token of a prompt."""

    rows: list[Row]
    targets: torch.Tensor
    """[position]: the next token; at the last position the likeliest one."""
    logits: torch.Tensor
    """[position] of the targets."""


class Look(NamedTuple):
    """Everything about one prompt."""

    rows: list[Row]
    notes: list[str]
    patterns: dict[Head, np.ndarray]
    """float16 [query, key] of some heads."""


def look(model: Any, trunk: Trunk | NotApplicable, ids: list[int], encoder: Encoder, options: Options) -> Look:
    """A prompt of token ids through a model; without a trunk only what it says, and why not more."""
    tokens = torch.tensor([ids], device=model.device)
    said = _say(model, tokens, encoder, options)
    if isinstance(trunk, NotApplicable):
        return Look(said.rows, [f"not entered: {trunk}"], {})
    passage = trunk.passage(tokens)
    notes: list[str] = []
    rows = [*said.rows, *_lens(trunk, passage, said.targets, encoder)]
    heads: list[Head] = []
    try:
        along = directions(trunk, passage, said.targets)
        found = parts(trunk, passage, along)
        told = {"target": said.targets.tolist(), "target_text": [encoder.text(t) for t in said.targets.tolist()]}
        added = [*_part_rows(found, options), *_neuron_rows(trunk, passage, along, found, options, notes)]
        rows += [{"kind": "part", **row, **{k: v[row["position"]] for k, v in told.items()}} for row in added]
        gap = float((found.total[0].cpu() - said.logits.double()).abs().max())
        if gap > UNCAPPED:
            notes.append(f"contributions: of the logits before the model caps or scales them (up to {gap:.2g} apart)")
        heads = strongest(found, options.heads)
    except NotApplicable as reason:
        notes.append(f"contributions: {reason}")
        heads = [(n, h) for n in range(trunk.n_layers) for h in range(trunk.n_heads)][: options.heads]
    return Look(rows, notes, _patterns(model, tokens, heads))


@torch.inference_mode()
def _say(model: Any, tokens: torch.Tensor, encoder: Encoder, options: Options) -> Said:
    """Loss and rank of each token given those before it, and the likeliest tokens after it."""
    output = backbone(model)(input_ids=tokens, use_cache=False)
    ids, n = tokens[0].tolist(), tokens.shape[1]
    rows: list[Row] = [{"kind": "token", "position": p, "token": t, "text": encoder.text(t)} for p, t in enumerate(ids)]
    targets, chosen = [*ids[1:], 0], torch.zeros(n)

    def read(part: slice, logits: torch.Tensor) -> None:
        logs = logits.log_softmax(-1)
        best = logits.topk(min(options.predictions, logits.shape[-1]))
        for row, p in enumerate(range(n)[part]):
            if p == n - 1:
                targets[p] = int(best.indices[row, 0])
            target = targets[p]
            chosen[p] = logits[row, target]
            if p < n - 1:
                rows[p + 1] |= {
                    "nll": -float(logs[row, target]),
                    "rank": 1 + int((logits[row] > logits[row, target]).sum()),
                }
            for place, token in enumerate(best.indices[row].tolist()):
                rows.append({
                    "kind": "prediction", "position": p, "place": place + 1, "token": token, "text": encoder.text(token),
                    "logit": float(logits[row, token]), "probability": float(logs[row, token].exp()),
                })  # fmt: skip

    read_logits(model, output, output.last_hidden_state[0], tokens[0], read)
    return Said(rows, torch.tensor(targets, device=tokens.device), chosen)


def _lens(trunk: Trunk, passage: Passage, targets: torch.Tensor, encoder: Encoder) -> Iterator[Row]:
    """What each layer would say of each target, were it the last: row l reads resid_pre of layer l, the last the model itself."""
    n = passage.inputs.shape[1]
    places, whole = torch.arange(n, device=targets.device), slice(0, n)
    final = log_probabilities(trunk, passage, trunk.n_layers, places, whole)
    texts = [encoder.text(t) for t in targets.tolist()]
    for layer in range(trunk.n_layers + 1):
        ours = log_probabilities(trunk, passage, layer, places, whole)
        nll = -ours.gather(1, targets[:, None])[:, 0]
        kl = (final.exp() * (final - ours)).sum(-1)
        top = ours.max(-1)
        for p in range(n):
            token = int(top.indices[p])
            yield {
                "kind": "lens", "position": p, "layer": layer, "target": int(targets[p]), "target_text": texts[p],
                "nll": float(nll[p]), "kl": float(kl[p]), "token": token, "text": encoder.text(token),
                "probability": float(top.values[p].exp()),
            }  # fmt: skip


def strongest(found: Parts, n: int) -> list[Head]:
    """The heads that add most to the logits above their mean, up or down, on average over positions; sorted."""
    sizes = torch.stack([layer.heads[1].abs().mean(0) for layer in found.layers])
    order = sizes.flatten().argsort(descending=True, stable=True)[:n].tolist()
    return sorted(divmod(i, sizes.shape[1]) for i in order)


def _part_rows(found: Parts, options: Options) -> Iterator[Row]:
    """Embedding, biases, attention and MLP of every layer at every position; every head at the last, the strongest before it."""
    n = found.bias.shape[1]
    for p in range(n):
        yield _row(p, "embedding", found.embedding[:, p])
        yield _row(p, "bias", found.bias[:, p])
        heads = torch.stack([layer.heads[:, p] for layer in found.layers])  # [layer, 2, head]
        for number, layer in enumerate(found.layers):
            yield _row(p, "attn", layer.attn[:, p], number)
            yield _row(p, "mlp", layer.mlp[:, p], number)
        n_heads = heads.shape[2]
        order = range(len(heads) * n_heads)
        shown = order if p == n - 1 else heads[:, 1].abs().flatten().argsort(descending=True)[: options.heads].tolist()
        for place in shown:
            number, head = divmod(place, n_heads)
            yield {**_row(p, "head", heads[number, :, head], number), "head": head}
        if p == n - 1:
            yield from (_row(p, "attn bias", layer.attn_bias[:, p], k) for k, layer in enumerate(found.layers))


def _neuron_rows(
    trunk: Trunk, passage: Passage, along: Directions, found: Parts, options: Options, notes: list[str]
) -> list[Row]:
    """At the last position, of every MLP: its neurons that raise the logit most, those that lower it most, all others and its
    bias, each group summed (they sum to the MLP), and the strongest neurons of all layers."""
    rows: list[Row] = []
    single: list[Row] = []
    for number, layer in enumerate(found.layers):
        try:
            each, bias = neurons(trunk, passage, number, along, layer.mlp)
        except NotApplicable as reason:
            notes.append(f"neurons: {reason}")
            return []
        each, p = each[:, -1], each.shape[1] - 1
        order = each[1].argsort(descending=True)
        k = min(options.neurons, len(order) // 2)
        up, down = order[:k], order[len(order) - k :]
        top, low = each[:, up].sum(-1), each[:, down].sum(-1)
        groups = (("neurons raising", top), ("neurons lowering", low), ("other neurons", each.sum(-1) - top - low))
        rows += [_row(p, name, value, number) for name, value in (*groups, ("mlp bias", bias[:, -1]))]
        for i in torch.cat([up, down]).tolist():
            single.append({**_row(p, "neuron", each[:, i], number), "neuron": i})
    return [*rows, *sorted(single, key=lambda row: -abs(row["centred"]))[: 2 * options.neurons]]


def _row(position: int, part: str, value: torch.Tensor, layer: int | None = None) -> Row:
    return {"position": position, "part": part, "layer": layer, "value": float(value[0]), "centred": float(value[1])}


def _patterns(model: Any, tokens: torch.Tensor, heads: list[Head]) -> dict[Head, np.ndarray]:
    """Attention of some heads [query, key]."""
    found: dict[Head, np.ndarray] = {}
    ids = tokens.cpu().numpy()

    def sink(layer: Layer) -> None:
        if chosen := [head for number, head in heads if number == layer.number]:
            maps = Attention.of(layer, Batch(ids, ids[:, 1:])).corner(ids.shape[1])[0].cpu().numpy().astype(np.float16)
            found.update({(layer.number, head): maps[head] for head in chosen})

    with torch.inference_mode(), reading(model, sink) as options:
        backbone(model)(input_ids=tokens, use_cache=False, **options)
    return {head: found[head] for head in heads}
