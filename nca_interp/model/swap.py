"""The embedding swap: from the synthetic vocabulary to the language's, everything else carried over or re-initialised.

arXiv 2603.10055 re-initialises embedding and unembedding only; its section 5.3.1 re-initialises module types to see
which carry the transfer. Here both are one function, and how embeddings are drawn is a policy (docs/swap.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch

from nca_interp.base import UserError, stream_seed
from nca_interp.config import MODULES, ModelConfig, Module
from nca_interp.graft import NOTHING, Graft, Head, Part
from nca_interp.model.graft import Geometry, put, replaced, role_of, said, slices, weights_by_name
from nca_interp.model.llama import build, fill, kind_of, standard_normal
from nca_interp.swap_policy import TODAY, Draw, SwapPolicy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


ANEW = ("initial", "fresh", "donor")
"""What a graft puts in place of embeddings that is a new draw: a donor's are of another vocabulary."""


@torch.no_grad()
def swap(
    parent: PreTrainedModel,
    config: ModelConfig,
    vocab_size: int,
    seed: int,
    keep: tuple[Module, ...] = MODULES,
    reinit_to: Literal["initial", "fresh"] = "initial",
    policy: SwapPolicy = TODAY,
    parent_vocab: int | None = None,
    graft: Graft = NOTHING,
    heads: tuple[Head, ...] = (),
    donor: PreTrainedModel | None = None,
) -> tuple[PreTrainedModel, list[dict[str, Any]]]:
    """A new model for `vocab_size` tokens that carries over what `keep` and `graft` say of `parent`, as `policy` says.

    `config` is the new model's, the policy already applied to it. Everything else holds this seed's own initial values
    ("initial": keeping nothing gives scratch bit for bit), a draw from another stream ("fresh"), or what the graft puts there:
    `heads` are those that it names, `donor` the model whose weights it takes. Embeddings that are matched to the parent's see
    its first `parent_vocab` rows (null: all), those that a token has. Returns the model and a log: tensor, kind, what was done,
    shape, the factor that a carried tensor was multiplied by, and the standard deviation before and after. UserError where
    rows are to be kept and their number differs.
    """
    model = build(config, vocab_size, seed, stream="pt")
    if graft == NOTHING:
        graft = _of_modules(keep, reinit_to, policy)
    if graft.instead == "fresh":
        body = {name for name, _ in model.named_parameters() if kind_of(name) != "embed"}
        fill(model, config, seed, "pt", body, draw="fresh")
    at, old = Geometry.of(model.config), weights_by_name(parent)
    giver = {} if donor is None else weights_by_name(donor)
    log = []
    for name, parameter in model.named_parameters():
        role, before, factor = role_of(name), old.get(name), None
        assert before is not None, name
        kind, what, initial = str(kind_of(name)), replaced(role, graft, heads, at), parameter.clone()
        if kind == "embed":
            draw = policy.unembed_draw if "lm_head" in name else policy.embed
            if what is True and draw == "keep" and graft.instead in ANEW:
                draw = "normal"
            what = what and draw == "keep"
            action = _embedding(draw, name, parameter, before, before[:parent_vocab], seed)
        else:
            assert before.shape == parameter.shape, name
            action, factor = _carried(policy, kind, parameter, before)
        if what:
            blocks = slices(role, what, parameter.shape, at)
            put(parameter, initial, before, giver.get(name), graft, blocks, (seed, "graft", name))
            action, factor = said(graft, what, action), None if what is True else factor
        log.append(
            {
                "tensor": name,
                "kind": kind,
                "action": action,
                "shape": list(parameter.shape),
                "factor": factor,
                "std_before": float(before.float().std()),
                "std_after": float(parameter.float().std()),
            }
        )
    return model, log


def _of_modules(keep: tuple[Module, ...], reinit_to: Literal["initial", "fresh"], policy: SwapPolicy) -> Graft:
    """What `keep` and `reinit_to` say, as a graft; of embeddings they say nothing."""
    if set(keep) == set(MODULES):
        return NOTHING
    embeddings: tuple[Part, ...] = ("embed",)
    return Graft(mode="keep", parts=(*embeddings, *keep), instead=reinit_to)


def _carried(policy: SwapPolicy, kind: str, parameter: torch.Tensor, before: torch.Tensor) -> tuple[str, float | None]:
    """Put the parent's tensor, at the scale of the policy, in place of its initial value; what was done, and the factor."""
    if policy.body_scale == "reset_norms" and kind == "norm":
        parameter.fill_(1.0)
        return "gains reset to 1", None
    if policy.body_scale == "shrink_to_initial":
        now, then = float(before.double().norm()), float(parameter.double().norm())
        factor = then / now if now > 0 else 1.0
        parameter.copy_(before * factor)
        return "carried over, scaled to its initial norm", factor
    parameter.copy_(before)
    return "carried over", None


def _embedding(
    draw: Draw, name: str, parameter: torch.Tensor, before: torch.Tensor, rows: torch.Tensor, seed: int
) -> str:
    """Draw an embedding [vocab, d_model] in place, from the parent's `rows` [parent's vocab, d_model] where asked.

    All Gaussian draws share one stream, so that arms of one seed differ by scale or covariance alone. `normal` is what the
    tensor holds already.
    """
    key = (seed, "init", "pt", name)
    if draw == "normal":
        return "re-initialised (new)"
    if draw == "keep":
        if before.shape != parameter.shape:
            raise UserError(
                f"swap.embed: keep: the parent has {len(before)} rows and this stage {len(parameter)}; rows are kept where the "
                "vocabularies agree; legal: normal, match_rms, match_gaussian, resample"
            )
        parameter.copy_(before)
        return "carried over"
    if draw == "match_rms":
        parameter.copy_(standard_normal(parameter.shape, *key) * rows.double().square().mean().sqrt().float())
    elif draw == "match_gaussian":
        mean, root = _moments(rows)
        parameter.copy_(mean + standard_normal(parameter.shape, *key).double() @ root)
    else:
        generator = torch.Generator().manual_seed(stream_seed(seed, "resample", "pt", name))
        parameter.copy_(rows[torch.randint(len(rows), (len(parameter),), generator=generator)])
    return f"re-initialised ({draw})"


def _moments(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean [d_model] and symmetric square root of the covariance [d_model, d_model] of rows, in fp64.

    The covariance is that of the rows themselves (divided by their number), of rank at most their number minus one.
    """
    x = rows.double()
    centred = x - x.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    return x.mean(0), (vectors * values.clamp(min=0).sqrt()) @ vectors.T
