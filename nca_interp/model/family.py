"""Networks of any architecture that transformers knows, built as the project's own Llama is (model/llama.py): every tensor a pure
function of (seed, stream, tensor name, shape), so that keeping nothing of a parent is scratch, bit for bit.

The distribution of each tensor is what its family itself begins with: constants (gains, biases) stay, a random tensor is
normal with the configuration's initializer_range, or with that over sqrt(2 n_layers) where the family scales what enters
the residual stream (GPT-2). A tensor that begins otherwise is refused by name.
"""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch

from nca_interp.base import UserError
from nca_interp.borders import border
from nca_interp.config import ModelConfig
from nca_interp.model.llama import standard_normal
from nca_interp.model.roles import kinds_of, unembedding_of

LEFT_OUT = frozenset({
    "vocab_size", "tie_word_embeddings", "_name_or_path", "name_or_path", "transformers_version", "dtype", "torch_dtype",
    "architectures", "id2label", "label2id", "use_cache", "_attn_implementation", "attn_implementation", "auto_map",
    "initializer_range", "init_std", "pretraining_tp", "problem_type", "return_dict",
})  # fmt: skip
"""Fields that the study decides, or that no number of a causal language model depends on."""
IDS = ("token_id", "token_ids", "token_index")
OFF = ("dropout", "pdrop", "layerdrop", "jitter_noise")
"""Fields of what is random in training."""
NEAR = 0.1
"""Relative difference by which the spread of a random tensor may miss what it is drawn with, in large tensors."""


class Start(NamedTuple):
    """What a tensor begins with."""

    constant: float | None
    """Every entry; None: it is random."""
    share: float = 1.0
    """Standard deviation over `init_std`."""


_STARTS: WeakKeyDictionary[Any, dict[str, Start]] = WeakKeyDictionary()


def fields_of(config: Any, *, changed: bool = True) -> dict[str, Any]:
    """Fields of a Hugging Face configuration that make its architecture, as JSON; `changed`: those that are not the family's own."""
    told = json.loads(config.to_json_string(use_diff=changed))
    kept = {k: v for k, v in told.items() if k not in LEFT_OUT and not k.endswith(IDS) and not _random(k)}
    return {"model_type": config.model_type, **kept}


def _random(field: str) -> bool:
    return any(part in field for part in OFF)


def family_config(config: ModelConfig, vocab_size: int) -> Any:
    """What transformers builds the network of `config.architecture` from; nothing in it is random in training."""
    from transformers import AutoConfig

    assert config.architecture is not None
    fields = dict(config.architecture.config)
    name = fields.pop("model_type")
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    with border("not a model that transformers knows", f"model.architecture.config ({name})"):
        made = AutoConfig.for_model(
            name, **fields, vocab_size=vocab_size, tie_word_embeddings=config.tied, use_cache=False, **ids
        )
    for field, value in made.to_dict().items():
        if _random(field) and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(made, field, 0.0)
    setattr(made, "init_std" if hasattr(made, "init_std") else "initializer_range", config.init_std)
    return made


def build_family(config: ModelConfig, vocab_size: int, seed: int, stream: str) -> Any:
    """A freshly initialised fp32 model on the CPU (see `llama.build`). UserError names a tensor whose part or whose first values
    are not understood."""
    from transformers import AutoModelForCausalLM

    described = family_config(config, vocab_size)
    with border("no model can be built of this configuration", "model.architecture"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(described, dtype=torch.float32)
    for path, part in model.named_modules():
        if isinstance(part, torch.nn.Dropout) and part.p > 0:
            raise UserError(
                f"{type(model).__name__}: {path} drops {part.p:g} of its inputs in training, by no field known"
            )
    kinds = kinds_of(model)
    _STARTS[model] = {n: _start(model, config, n, p, kinds[n] == "embed") for n, p in model.named_parameters()}
    fill_family(model, config, seed, stream, set(kinds))
    return model


def _start(model: Any, config: ModelConfig, name: str, parameter: torch.Tensor, embedding: bool) -> Start:
    first = parameter.detach().flatten()[0]
    if bool((parameter == first).all()):
        return Start(float(first))
    if embedding:
        return Start(None)
    found = float(parameter.detach().double().square().mean().sqrt()) / config.init_std
    legal = (1.0, (2 * config.n_layers) ** -0.5)
    share = min(legal, key=lambda one: abs(math.log(found / one)))
    if abs(found / share - 1) > max(NEAR, 5 / math.sqrt(2 * parameter.numel())):
        raise UserError(
            f"{type(model).__name__}: tensor {name} of {type(model.get_submodule(name.rpartition('.')[0])).__name__} begins with a "
            f"root mean square of {found * config.init_std:.3g}, neither a constant nor initializer_range {config.init_std:g} nor that "
            "over sqrt(2 layers): a model from scratch cannot be drawn"
        )
    return Start(None, share)


@torch.no_grad()
def fill_family(model: Any, config: ModelConfig, seed: int, stream: str, names: set[str], draw: str = "init") -> None:
    """`llama.fill` of a model that `build_family` made."""
    kinds, unembedding, starts = kinds_of(model), unembedding_of(model), _STARTS[model]
    for name, parameter in model.named_parameters():
        if name not in names:
            continue
        start, embedding = starts[name], kinds[name] == "embed"
        if start.constant is not None:
            parameter.fill_(start.constant)
            continue
        std = config.embed_std if embedding else start.share * config.init_std
        if name == unembedding and config.unembed_std is not None:
            std = config.unembed_std
        key = (seed, draw, stream, name) if embedding else (seed, draw, name)
        parameter.copy_(standard_normal(parameter.shape, *key) * std)
