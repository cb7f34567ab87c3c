"""How the attention of an opened model can be read, decided by a test of the model itself and not by its name.

Before anything is measured, two rows that share their first half go through the model. What comes after must not change
what comes before (else it is not causal, and refused). Then, with our attention function in the place of its own, it must
compute what it computes by itself; where it does not, the patterns that its own attention returns are read, if they are
real; else its behaviour alone is measured, and the reason is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch

from nca_interp.analysis.attention.backbone import find_backbone, inner_calls, layer_paths, numbering
from nca_interp.analysis.attention.kernel import FAST, Layer, Sink, handing_to, register
from nca_interp.analysis.attention.returned import (
    Outputs,
    attending_modules,
    fault_of_layer,
    handing_returned,
    products,
)
from nca_interp.analysis.stimuli.subject import context_length
from nca_interp.base import UserError

SHORT, LONG = 32, 512
"""Tokens of the rows whose logits, and whose hidden states, are compared (or the model's context)."""
TOLERANCE = 1e-4
"""Largest difference, as a share of the largest entry (fp32). In shorter precision, where a rounded router may send a
token elsewhere: the mean over positions, `ROUNDED`."""
ROUNDED = 3e-2
LAST = 32
"""Parts of a model that finish last, among which the one that makes the last hidden states is."""


FIXED = "does not let its attention be replaced"


class Access(NamedTuple):
    """What the test of a model found."""

    way: Literal["kernel", "returned", "none"]
    """Attention is read from our attention function, from what its own modules return, or not at all."""
    reason: str
    """Why nothing better."""
    backbone: str
    """Path of the part that makes hidden states; "" where the head cannot be run apart."""
    layers: tuple[str, ...] = ()
    """Paths of the layers, whose places number them."""
    attending: tuple[str, ...] = ()
    """Paths of the attention modules."""
    outputs: Outputs = "projection"
    final: str = ""
    """Path of the part that makes the last hidden states (the final norm, or the last layer); "" where none does."""


_BY_CONFIG: dict[tuple[Any, ...], Access] = {}
_BY_MODEL: WeakKeyDictionary[Any, Access] = WeakKeyDictionary()


def access(model: Any) -> Access:
    """The test's finding, made once for each configuration in a process; the model then has the attention to be read.

    UserError for a model that is not causal, or does not run on tokens alone.
    """
    if model not in _BY_MODEL:
        key = (type(model), model.config.to_json_string(), model.dtype, model.device.type)
        if key not in _BY_CONFIG:
            register()
            _BY_CONFIG[key] = _examine(model)
        _BY_MODEL[model] = _BY_CONFIG[key]
    found = _BY_MODEL[model]
    _use(model, FAST if found.way == "kernel" else "eager")
    return found


def backbone(model: Any) -> Any:
    """The part of a model that turns tokens into hidden states; UserError where its head cannot be run apart."""
    path = access(model).backbone
    if not path:
        raise UserError(f"{type(model).__name__}: its head cannot be run apart from its layers")
    return model.get_submodule(path)


@contextmanager
def reading(model: Any, sink: Sink) -> Iterator[dict[str, Any]]:
    """Inside, one forward pass hands its layers to `sink`; yields the options that the pass needs."""
    with _reading(model, access(model), sink) as options:
        yield options


@contextmanager
def _reading(model: Any, found: Access, sink: Sink) -> Iterator[dict[str, Any]]:
    with numbering(model, found.layers, sink) as numbered, ExitStack() as stack:
        if found.way == "kernel":
            stack.enter_context(handing_to(numbered))
        else:
            stack.enter_context(handing_returned(model, found.attending, found.outputs, numbered))
        yield {"output_attentions": True} if found.way == "returned" else {}


def _use(model: Any, attention: str) -> None:
    if model.config._attn_implementation != attention and type(model)._can_set_attn_implementation():
        model.set_attn_implementation(attention)


def _examine(model: Any) -> Access:
    name = type(model).__name__
    _use(model, "eager")
    short, long = (trial_rows(model.config, n).to(model.device) for n in (SHORT, LONG))
    logits = _run(model, short, lambda: model(input_ids=short, use_cache=False).logits)
    if logits.shape[:2] != short.shape:
        raise UserError(f"{name}: it does not give every token of a sequence its logits {list(logits.shape)}")
    _check_causal(name, logits)
    path = find_backbone(model, short, logits, TOLERANCE if model.dtype == torch.float32 else ROUNDED)
    part = model.get_submodule(path) if path else model

    def states(**options: Any) -> torch.Tensor:
        out = part(input_ids=long, use_cache=False, **options)
        found: torch.Tensor = out.last_hidden_state if path else out.logits
        return found

    with inner_calls(model, LAST) as calls:
        own = _run(model, long, states)
    _check_causal(name, own)
    final = next((p for p, out in calls if _is_same(out[0] if isinstance(out, tuple) and out else out, own)), "")
    del calls
    tried = Access("none", "", path or "", final=final)
    tried = _by_kernel(model, lambda: model(input_ids=short, use_cache=False), states, own, tried)
    if tried.way == "none":
        _use(model, "eager")
        tried = _by_returned(model, states, own, tried)
    return tried


def _by_kernel(
    model: Any, short: Callable[[], Any], states: Callable[..., torch.Tensor], own: torch.Tensor, tried: Access
) -> Access:
    name, seen = type(model).__name__, list[torch.nn.Module]()
    if not type(model)._can_set_attn_implementation():
        return tried._replace(reason=f"{name} {FIXED}")
    try:
        _use(model, FAST)
        with torch.inference_mode(), handing_to(lambda layer: seen.append(layer.module)):
            short()
        if not seen:
            return tried
        paths = {module: path for path, module in model.named_modules()}
        attending = tuple(dict.fromkeys(paths[module] for module in seen))
        found = tried._replace(way="kernel", layers=layer_paths(model, attending), attending=attending)
        with torch.inference_mode(), _reading(model, found, lambda layer: None) as options:
            ours = states(**options)
    except UserError as error:
        return tried._replace(reason=str(error))
    except Exception as error:  # foreign code, given an attention that it does not know
        return tried._replace(reason=f"{name}: another attention raises {type(error).__name__}: {_first(error)}")
    if _differ(ours, own, float(own.abs().max())):
        return tried._replace(reason=f"{name} computes something else with its attention replaced")
    return found


def _by_returned(model: Any, states: Callable[..., torch.Tensor], own: torch.Tensor, tried: Access) -> Access:
    name, length = type(model).__name__, own.shape[1]
    try:
        with torch.inference_mode(), inner_calls(model) as calls:
            states(output_attentions=True)
    except Exception as error:  # foreign code may not know the option
        return tried._replace(reason=tried.reason or f"{name}: output_attentions raises {_first(error)}")
    paths = tuple(attending_modules(calls, length))
    if not paths:
        return tried._replace(reason=tried.reason if _is_told(tried) else _without_attention(model))
    del calls
    found = tried._replace(way="returned", attending=paths, layers=layer_paths(model, paths))
    faults = []
    for outputs in get_args(Outputs):
        layers: list[Layer] = []
        try:
            way = _reading(model, found._replace(outputs=outputs), layers.append)
            with torch.inference_mode(), products(length) as multiplied, way as options:
                again = states(**options)
        except Exception as error:  # a UserError, or what foreign code raises where outputs are not what was supposed
            faults.append(str(error) if isinstance(error, UserError) else f"{name}: {_first(error)}")
            continue
        exact = own.dtype == torch.float32
        wrong = next((w for layer in layers if (w := fault_of_layer(layer, multiplied, exact))), None)
        if wrong is None and not _differ(again, own, float(own.abs().max())):
            return found._replace(outputs=outputs)
        faults.append(f"{name}: {wrong or 'it computes something else when asked for its attention'}")
    return tried._replace(reason=tried.reason if _is_told(tried) else faults[0])


def _is_told(tried: Access) -> bool:
    """Whether the reason why our attention function cannot be used says what is special of the attention."""
    return bool(tried.reason) and not tried.reason.endswith(FIXED)


def _without_attention(model: Any) -> str:
    name, heads = type(model).__name__, getattr(model.config.get_text_config(), "num_attention_heads", None)
    return f"no part of {name} forms attention probabilities" if heads else f"{name} has no attention: it is recurrent"


def _is_same(value: Any, own: torch.Tensor) -> bool:
    """Whether it is that tensor, or a view of the whole of it."""
    return isinstance(value, torch.Tensor) and value.numel() == own.numel() and value.data_ptr() == own.data_ptr()


def trial_rows(config: Any, longest: int = SHORT) -> torch.Tensor:
    """Two rows of ordinary tokens [2, length] that share their first half."""
    text = config.get_text_config()
    named: set[int] = set()
    for holder in (config, text):
        for name, value in vars(holder).items():
            if name.endswith(("token_id", "token_ids", "token_index")):
                named |= {i for i in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(i, int)}
    ids = np.setdiff1d(np.arange(text.vocab_size), np.array(sorted(named), dtype=int))
    ids = ids if len(ids) > 1 else np.arange(text.vocab_size)
    length = min(longest, context_length(text))
    rows = ids[np.random.default_rng(0).integers(len(ids), size=(2, length))]
    rows[1, : length // 2] = rows[0, : length // 2]
    return torch.from_numpy(rows)


def _run(model: Any, rows: torch.Tensor, call: Callable[[], Any]) -> torch.Tensor:
    """What the model itself computes on rows; UserError where it cannot, or where it is not finite."""
    name = type(model).__name__
    try:
        with torch.inference_mode():
            found = call()
    except Exception as error:  # foreign code may raise anything
        what = f"{rows.shape[1]} tokens and nothing else"
        raise UserError(f"{name}: does not run on {what} ({type(error).__name__}: {_first(error)})") from error
    if not bool(found.isfinite().all()):
        bad = next((n for n, p in model.named_parameters() if not bool(p.isfinite().all())), None)
        where = f"; tensor {bad} holds such values" if bad else ""
        raise UserError(f"{name}: what it computes on ordinary tokens is NaN or infinite{where}")
    return found


def _check_causal(name: str, states: torch.Tensor) -> None:
    """UserError unless the first half of both rows is alike, whose second halves differ."""
    half = states.shape[1] // 2
    change = float((states[0, half:] - states[1, half:]).float().abs().max())
    if _differ(states[0, :half], states[1, :half], change):
        raise UserError(
            f"{name}: tokens that come later change what it computes before them: it is not a causal language model "
            "(a masked or bidirectional one?) and cannot be measured as one"
        )


def _differ(ours: torch.Tensor, own: torch.Tensor, scale: float) -> bool:
    """Whether two results [.., position, entry] are not the same, up to rounding."""
    gap = (ours.float() - own.float()).abs().amax(-1)
    return not (
        float(gap.max()) <= TOLERANCE * scale if own.dtype == torch.float32 else float(gap.mean()) <= ROUNDED * scale
    )


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]
