"""The three parts of an induction circuit, each measured as if the other two were perfect.

Head h of layer l attends, where a token comes again, to what followed it; it finds that place because a *partner*, a head of an
earlier layer, has written there which token came before. (Olsson et al. 2022, arXiv 2209.11895; Elhage et al. 2021.)

- `input`: attention of the partner to the previous token, mean over queries.
- `matching`: attention of h to the token after the earlier occurrence where the partner's attention is set to the previous token
  everywhere: what W_QK makes of a perfect input.
- `copying`: what h adds to the logit of the token after the earlier occurrence, less its mean over the other tokens of the block,
  where its own attention is set to that token: what W_OV makes of perfect attention. In logits, by the final norm's own scale.
- `induction`: its attention there as it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from nca_interp.analysis.causes.resume import Passage, Trunk
from nca_interp.analysis.stimuli.base import Batch, NotApplicable

COMPONENTS = ("input", "matching", "copying")


class Circuit(NamedTuple):
    """Of every head [layer, head]; NaN where a layer has none before it."""

    induction: torch.Tensor
    previous: torch.Tensor
    """Attention to the previous token."""
    matching: torch.Tensor
    copying: torch.Tensor

    def partners(self) -> list[tuple[int, int] | None]:
        """For each layer the head of an earlier layer that attends most to the previous token."""
        found: list[tuple[int, int] | None] = [None]
        for layer in range(1, len(self.previous)):
            best = int(self.previous[:layer].flatten().argmax())
            found.append(divmod(best, self.previous.shape[1]))
        return found


class _Read(NamedTuple):
    """Queries, keys and values of a layer [batch, head, position, d_head], and what its attention gives them."""

    pattern: torch.Tensor
    value: torch.Tensor


def circuit(trunk: Trunk, batch: Batch, partners: list[tuple[int, int] | None] | None = None) -> Circuit:
    """Of all heads on a repeated_tokens stimulus; `partners` by layer, default those of this model. NotApplicable for layers whose
    queries, keys and values are not those of a Llama."""
    assert batch.period is not None
    tokens = torch.as_tensor(batch.inputs, dtype=torch.long, device=trunk.model.device)
    passage = trunk.passage(tokens)
    reads = [_read(trunk, passage, n, passage.residuals[n]) for n in range(trunk.n_layers)]
    back, queries = batch.period - 1, torch.as_tensor(batch.in_repeat(), device=tokens.device).nonzero()[:, 0]
    shape = (trunk.n_layers, trunk.n_heads)
    induction = torch.stack([_offset(r.pattern, back, queries) for r in reads])
    everywhere = torch.arange(1, batch.length, device=tokens.device)
    previous = torch.stack([_offset(r.pattern, 1, everywhere) for r in reads])
    matching = torch.full(shape, torch.nan)
    found = Circuit(induction, previous, matching, _copying(trunk, passage, reads, batch, queries))
    for layer, partner in enumerate(found.partners() if partners is None else partners):
        if partner is not None:
            resid = _with_input(trunk, passage, reads, partner, layer)
            matching[layer] = _offset(_read(trunk, passage, layer, resid).pattern, back, queries)
    return found


@torch.inference_mode()
def _read(trunk: Trunk, passage: Passage, layer: int, resid_pre: torch.Tensor) -> _Read:
    module: Any = trunk.layers[layer]
    attn: Any = trunk.attention(layer)
    cos_sin = passage.calls[layer][1].get("position_embeddings")
    if cos_sin is None or not all(hasattr(attn, f"{name}_proj") for name in "qkv") or hasattr(attn, "q_norm"):
        raise NotApplicable(f"{type(attn).__name__} is not the attention of a Llama")
    hidden = module.input_layernorm(resid_pre)
    q, k, v = (getattr(attn, f"{n}_proj")(hidden).unflatten(-1, (-1, attn.head_dim)).transpose(1, 2) for n in "qkv")
    q, k = (_rotated(x, *(part[:, None] for part in cos_sin)) for x in (q, k))
    k, v = (x.repeat_interleave(trunk.n_heads // x.shape[1], 1) for x in (k, v))
    scores = (q @ k.mT).float() * attn.scaling
    n = scores.shape[-1]
    later = torch.ones(n, n, dtype=torch.bool, device=scores.device).triu(1)
    return _Read(scores.masked_fill(later, -torch.inf).softmax(-1), v.float())


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _offset(pattern: torch.Tensor, back: int, queries: torch.Tensor) -> torch.Tensor:
    """Mean over sequences and queries of the mass `back` places earlier [head]."""
    return pattern[:, :, queries, queries - back].mean((0, 2)).cpu()


@torch.inference_mode()
def _with_input(
    trunk: Trunk, passage: Passage, reads: list[_Read], partner: tuple[int, int], layer: int
) -> torch.Tensor:
    """resid_pre of `layer` where the partner attends to the previous token alone."""
    at, head = partner
    read = reads[at]
    own = read.pattern[:, head] @ read.value[:, head]
    perfect = torch.cat([read.value[:, head, :1], read.value[:, head, :-1]], 1)
    heads = trunk.heads(passage, at)
    written = heads.written + trunk.change(at, head, (perfect - own).to(heads.written.dtype))
    resid = trunk.resume(passage, at, heads, written)
    for n in range(at + 1, layer):
        resid = trunk.step(passage, n, resid)
    return resid


@torch.inference_mode()
def _copying(trunk: Trunk, passage: Passage, reads: list[_Read], batch: Batch, queries: torch.Tensor) -> torch.Tensor:
    """[layer, head]. The final norm is taken at its scale for the model's own last residual: what a head adds is linear then."""
    assert batch.period is not None
    norm: Any = trunk.final_norm
    end = passage.residuals[-1][:, queries].float()
    gain = norm.weight.float() * torch.rsqrt(end.square().mean(-1, keepdim=True) + norm.variance_epsilon)
    unembed = trunk.model.get_output_embeddings().weight.float()
    context = passage.inputs[:, batch.start : batch.start + batch.period]
    keys = queries - (batch.period - 1)
    place = (keys - batch.start) % batch.period
    found = torch.empty(trunk.n_layers, trunk.n_heads)
    for layer, read in enumerate(reads):
        for head in range(trunk.n_heads):
            written = trunk.change(layer, head, read.value[:, head, keys]) * gain
            logits = torch.einsum("bqd,bnd->bqn", written, unembed[context])
            own = logits.gather(2, place.expand(len(logits), -1)[..., None])[..., 0]
            others = (logits.sum(-1) - own) / (batch.period - 1)
            found[layer, head] = (own - others).mean()
    return found
