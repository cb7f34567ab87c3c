"""Activation and path patching between two prompts of equal length (Wang et al. 2022, arXiv 2211.00593; Heimersheim and
Nanda 2024, arXiv 2404.15255; Goldowsky-Dill et al. 2023, arXiv 2304.05969).

The model runs on the corrupted prompt; one activation is replaced by that of the clean prompt; how much of the answer
comes back? All of it is done from layers that were run before: nothing before the change is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from nca_interp.analysis.attention.anatomy import anatomy
from nca_interp.analysis.attention.heads import child
from nca_interp.analysis.attention.losses import read_logits
from nca_interp.analysis.causes.resume import MLP, LayerHeads, Passage, Trunk, first, with_first
from nca_interp.analysis.pairs.pair import Pair
from nca_interp.analysis.stimuli.base import NotApplicable

ROWS, TOKENS = 64, 2**11
"""Patches that go through together: at most so many, of so many tokens in all."""
Head = tuple[int, int]
Site = dict[str, Any]


class Ends(NamedTuple):
    """What a patched model says at the last position of [patch] sequences."""

    value: torch.Tensor
    """Logit of the answer minus that of the wrong one, or the answer's log probability where there is none."""
    probability: torch.Tensor
    """Of the answer."""


class Patching:
    """Both prompts through one model, and every patch from the clean to the corrupted one. NotApplicable where the model's layers
    cannot be resumed."""

    def __init__(self, trunk: Trunk, pair: Pair) -> None:
        self.trunk, self.pair = trunk, pair
        device, self.length = trunk.model.device, len(pair.clean)
        self.rows = max(1, min(ROWS, TOKENS // self.length, max(self.length, trunk.n_heads)))
        self.clean = trunk.passage(torch.tensor([pair.clean], device=device))
        self.bad = trunk.passage(torch.tensor([pair.corrupt], device=device))
        self.tiled = trunk.passage(torch.tensor([pair.corrupt], device=device).expand(self.rows, -1).contiguous())
        self.full, self.broken = (self.ends(p, p.residuals[-1]) for p in (self.clean, self.bad))

    def ends(self, passage: Passage, resid_post: torch.Tensor) -> Ends:
        """What follows the last layer's resid_post."""
        found: list[Ends] = []

        def read(_: slice, logits: torch.Tensor) -> None:
            logs, answer, wrong = logits.log_softmax(-1), self.pair.answer, self.pair.wrong
            value = logs[:, answer] if wrong is None else logits[:, answer] - logits[:, wrong]
            found.append(Ends(value.double().cpu(), logs[:, answer].exp().double().cpu()))

        with torch.inference_mode():
            hidden = self.trunk.final_norm(resid_post[:, -1:]).flatten(0, 1)
        read_logits(self.trunk.model, passage.output, hidden, passage.inputs[:, -1], read)
        return Ends(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def activations(
        self, tell: Callable[[str, float], None] = lambda what, share: None
    ) -> Iterator[tuple[Site, float]]:
        """Every layer's resid_pre, attention output and MLP output at every position, and every head's z at all positions: what
        was patched, and the value that came out."""
        trunk = self.trunk
        for layer in range(trunk.n_layers):
            tell(
                f"layer {layer + 1} of {trunk.n_layers}", 1 - (1 - layer / trunk.n_layers) ** 2
            )  # what follows is run again
            ours, tiled = trunk.heads(self.clean, layer), trunk.heads(self.tiled, layer)
            mlp = self._mlp_output(layer)
            changes: dict[str, Any] = {
                "resid": lambda places, n=layer: self._resid(n, places),
                "attn": lambda places, n=layer, a=ours, b=tiled: trunk.resume(
                    self.tiled, n, b, _at(b.written, a.written, places)
                ),
                "mlp": lambda places, n=layer, a=mlp: self._with_mlp(n, a, places),
                "head": lambda heads, n=layer, a=ours, b=tiled: trunk.resume(
                    self.tiled, n, b, self._heads(n, a, b, heads)
                ),
            }
            for site, change in changes.items():
                n = trunk.n_heads if site == "head" else self.length
                for start in range(0, n, self.rows):
                    places = list(range(start, min(n, start + self.rows)))
                    value = self.ends(self.tiled, trunk.finish(self.tiled, layer + 1, change(places))).value
                    where = "head" if site == "head" else "position"
                    yield from (
                        ({"site": site, "layer": layer, where: p}, float(v))
                        for p, v in zip(places, value, strict=False)
                    )

    def to_logits(self) -> Iterator[tuple[Site, float]]:
        """Path patching head -> logits: what a head writes reaches the final norm as on the clean prompt, and nothing else."""
        trunk = self.trunk
        for layer in range(trunk.n_layers):
            ours, bad, scale = trunk.heads(self.clean, layer), trunk.heads(self.bad, layer), self._scale(layer)
            for head in range(trunk.n_heads):
                moved = scale * trunk.change(layer, head, ours.z[:, :, head] - bad.z[:, :, head])
                value = self.ends(self.bad, self.bad.residuals[-1] + moved).value
                yield {"site": "head -> logits", "layer": layer, "head": head}, float(value[0])

    def edges(self, heads: list[Head]) -> Iterator[tuple[Site, float]]:
        """Path patching head -> head: what the earlier head writes enters the later one as on the clean prompt, and nothing else
        (heads, MLPs and layers between keep their outputs); what the later one then puts out goes on."""
        trunk = self.trunk
        for l1, h1 in heads:
            for l2, h2 in heads:
                if l1 >= l2:
                    continue
                ours, bad = trunk.heads(self.clean, l1), trunk.heads(self.bad, l1)
                moved = self._scale(l1) * trunk.change(l1, h1, ours.z[:, :, h1] - bad.z[:, :, h1])
                own = trunk.heads(self.bad, l2)
                z = trunk.heads(self.bad, l2, self.bad.residuals[l2] + moved).z[:, :, h2]
                written = own.written + trunk.change(l2, h2, z - own.z[:, :, h2])
                end = trunk.finish(self.bad, l2 + 1, trunk.resume(self.bad, l2, own, written))
                site = {"site": "head -> head", "layer": l2, "head": h2, "from_layer": l1, "from_head": h1}
                yield site, float(self.ends(self.bad, end).value[0])

    def _scale(self, layer: int) -> float:
        block = anatomy(self.trunk.model, self.bad.inputs.cpu().numpy()).block_of(self.trunk.layers[layer])
        if block.after:
            raise NotApplicable(
                "what a head writes is normalised with the others before it is added: paths do not separate"
            )
        return block.scale

    def _resid(self, layer: int, places: list[int]) -> torch.Tensor:
        resid_pre = _at(self.tiled.residuals[layer], self.clean.residuals[layer], places)
        return self.trunk.step(self.tiled, layer, resid_pre)

    def _heads(self, layer: int, ours: LayerHeads, tiled: LayerHeads, heads: list[int]) -> torch.Tensor:
        written = tiled.written.clone()
        for row, head in enumerate(heads):
            written[row] += self.trunk.change(layer, head, ours.z[0, :, head] - tiled.z[row, :, head])
        return written

    def _mlp_output(self, layer: int) -> torch.Tensor:
        """[1, position, d_model] on the clean prompt."""
        seen: list[torch.Tensor] = []
        with self._mlp(layer, lambda out: seen.append(out.clone())):
            self.trunk.step(self.clean, layer, self.clean.residuals[layer])
        return seen[0].reshape(1, self.length, -1)

    def _with_mlp(self, layer: int, ours: torch.Tensor, places: list[int]) -> torch.Tensor:
        def instead(out: torch.Tensor) -> torch.Tensor:
            return _at(out.reshape(self.rows, self.length, -1), ours, places).reshape(out.shape)

        with self._mlp(layer, instead):
            return self.trunk.step(self.tiled, layer, self.tiled.residuals[layer])

    @contextmanager
    def _mlp(self, layer: int, function: Callable[[torch.Tensor], torch.Tensor | None]) -> Iterator[None]:
        """Inside, the MLP's output is what the function makes of it (None: as it is)."""

        def hook(_: Any, args: Any, out: Any) -> Any:
            other = function(first(out))
            return None if other is None else with_first(out, other)

        handle = child(self.trunk.layers[layer], MLP, "layer").register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()


def _at(rows: torch.Tensor, ours: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Rows [row, position, d_model] with that of `ours` [1, position, d_model] at one place in each of the first rows."""
    found = rows.clone()
    for row, place in enumerate(places):
        found[row, place] = ours[0, place]
    return found
