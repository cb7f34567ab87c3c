"""What can be measured of every causal family of the installed transformers, on a tiny random model of each.

python -m benchmarks.families > docs/families.md
"""

from __future__ import annotations

import os
import sys
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.tiny import VOCAB, families, tiny_model
from nca_interp.analysis.attention.access import access, backbone, reading
from nca_interp.analysis.attention.heads import Heads, at_projection
from nca_interp.analysis.attention.kernel import Layer
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.stimuli.base import Batch, NotApplicable
from nca_interp.base import UserError

PERIOD = 16
PAGE = """# Which models can be measured

Any causal language model that transformers opens is tested before it is measured (`analysis/attention/access.py`): it must not let
later tokens change what comes before them, and with our attention function in the place of its own it must compute the
same. The table says what that test and the measurements find on a tiny random model of every family of transformers
{version}. It is made by `python -m benchmarks.families`; a test runs the same models, and compares their attention and
probes with what transformers returns itself.

- **attention**: "ours", our attention function takes the place of the model's; "its own", the patterns that its eager
  attention returns are read (slower, and a layer's whole map is in memory); no, attention probes are skipped.
- **loss**: probes of the loss. Probes of the stimulus alone need no model.
- **heads**: probes of what single heads write to the logits. **ablation**: `--causes`.

A family that is refused as not causal is a masked or bidirectional one as its configuration comes; where the
configuration says `is_decoder`, it is measured as the others are.

{counts}

| family | | attention | loss | heads | ablation | what is missing, and why |
|---|---|---|---|---|---|---|
{rows}
"""


class Verdict(NamedTuple):
    """What can be measured of a family."""

    attention: str = "no"
    loss: bool = False
    heads: bool = False
    ablation: bool = False
    missing: tuple[str, ...] = ()
    """Reasons."""
    built: bool = True
    """Whether there is a tiny model of it."""

    @property
    def status(self) -> str:
        """measured, in part, refused, or not tried."""
        if not self.built:
            return "not tried"
        if not self.loss:
            return "refused"
        return "measured" if self.heads and self.ablation else "in part"


@lru_cache(maxsize=1)
def model_of(family: str) -> Any:
    """The tiny model of a family (the last one is kept)."""
    return tiny_model(families()[family])


@cache
def verdict(family: str) -> Verdict:
    """Try everything on the tiny model of a family."""
    try:
        model = model_of(family)
    except Exception as error:  # transformers' own code, on a configuration that it does not like
        return Verdict(missing=(f"no tiny model: {type(error).__name__}: {_line(error)}",), built=False)
    try:
        found = access(model)
    except UserError as error:
        return Verdict(missing=(_line(error),))
    missing = [] if found.way != "none" else [f"attention: {found.reason}"]
    if not found.backbone:
        missing.append("loss: its head cannot be run apart from its layers")
    batch = repeated(np.random.default_rng(0).integers(3, VOCAB, (2, PERIOD)))
    heads = found.way != "none" and _try(lambda: _head_outputs(model, batch), "heads", missing)
    ablation = found.way != "none" and _try(lambda: _ablation(model, batch), "ablation", missing)
    attention = {"kernel": "ours", "returned": "its own", "none": "no"}[found.way]
    return Verdict(attention, bool(found.backbone), heads, ablation, tuple(missing))


def repeated(block: np.ndarray) -> Batch:
    """A block of tokens [sequence, period] twice."""
    rows = np.concatenate([block, block], axis=1)
    return Batch(rows, rows[:, 1:], period=block.shape[1], repeats=2)


def _head_outputs(model: Any, batch: Batch) -> None:
    def look(layer: Layer) -> None:
        Heads(layer, batch, model).logits_on_context(torch.arange(4))

    with (
        at_projection(model, batch.inputs, look) as handed,
        torch.inference_mode(),
        reading(model, handed) as options,
    ):
        backbone(model)(input_ids=torch.from_numpy(batch.inputs), use_cache=False, **options)


def _ablation(model: Any, batch: Batch) -> None:
    trunk = Trunk(model)
    passage = trunk.passage(torch.from_numpy(batch.inputs))
    for layer in range(trunk.n_layers):
        trunk.heads(passage, layer)
        trunk.without(passage, layer, "mlp")


def _try(work: Any, what: str, missing: list[str]) -> bool:
    try:
        work()
    except NotApplicable as reason:
        missing.append(f"{what}: {_line(reason)}")
        return False
    except Exception as error:  # a fault of ours, told as one
        missing.append(f"{what}: fails, {type(error).__name__}: {_line(error)}")
        return False
    return True


def _line(error: Exception) -> str:
    """The last line of a message, which in transformers says most, short enough for a table."""
    return " ".join((str(error).strip().splitlines() or [type(error).__name__])[-1].split())[:160]


def row(family: str) -> str:
    """The line of a family in the table."""
    found = verdict(family)
    yes = ["yes" if one else "no" for one in (found.loss, found.heads, found.ablation)]
    cells = [family, found.status, found.attention, *yes, "; ".join(found.missing).replace("|", "\\|")]
    return f"| {' | '.join(cells)} |".replace("  ", " ")


def page(rows: list[str]) -> str:
    """docs/families.md."""
    import transformers

    kinds = [line.split(" | ")[1] for line in rows]
    counts = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("measured", "in part", "refused", "not tried"))
    return PAGE.format(
        version=transformers.__version__, counts=f"{len(rows)} families: {counts}.", rows="\n".join(rows)
    )


if __name__ == "__main__":
    from transformers.utils import logging

    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    sys.stdout.write(page([row(family) for family in sorted(families())]))
