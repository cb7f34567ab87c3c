"""What the files of a checkpoint that others trained say of it."""

from __future__ import annotations

from typing import Any

from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.stimuli.source import weights_sha256
from nca_interp.base import UserError


def described(run: Run) -> dict[str, Any]:
    """Columns of the table `runs`: of its last checkpoint."""
    from nca_interp.model.checkpoint import load_config

    last = run.steps[-1]
    found: dict[str, Any] = {
        "state": "done", "steps": last, "tokens": run.tokens_at.get(last), "source": str(run.last),
        "checkpoint_sha256": weights_sha256(run.last), "params": parameters(run),
    }  # fmt: skip
    try:
        config = load_config(run.last)
    except UserError:
        return found
    text = config.get_text_config()
    heads, layers = getattr(text, "num_attention_heads", None), getattr(text, "num_hidden_layers", None)
    shape = f", {layers} layers x {heads} heads" if heads and layers else f", {layers} layers" if layers else ""
    found["description"] = f"{(config.architectures or [config.model_type])[0]}{shape}"
    found["vocab_size"] = getattr(text, "vocab_size", None)
    found["precision"] = str(getattr(config, "dtype", "") or "").removeprefix("torch.")
    return found


def parameters(run: Run) -> int:
    """Numbers in the weights of its last checkpoint, shared ones once."""
    import math

    from safetensors import safe_open

    total = 0
    for path in sorted(run.last.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
