"""From a logit back to the residual stream: the final norm is linear while its scale is held at what it was."""

from __future__ import annotations

from typing import NamedTuple

import torch

from nca_interp.analysis.stimuli.base import NotApplicable

LENGTH = 1e4
"""Of the vectors that gains are read from, so that the small constant of a norm is nothing to them."""
TOLERANCE = 1e-4
"""A norm may differ from what is said of it by this share of its output (fp32; a hundred times as much in shorter precision)."""


class HeldNorm(NamedTuple):
    """A norm at some positions, its scale held: v -> scale * gain * (v - mean v, if `centred`), then + bias. Float64."""

    scale: torch.Tensor
    """[position, 1]."""
    gain: torch.Tensor
    """[d_model]."""
    bias: torch.Tensor
    """[d_model]."""
    centred: bool
    """LayerNorm; else RMSNorm."""

    def pull(self, direction: torch.Tensor) -> torch.Tensor:
        """The direction [..., position, d_model] before the norm whose product with a vector is that of `direction` with the
        normalised vector, less the bias."""
        back = self.scale * self.gain * direction
        return back - back.mean(-1, keepdim=True) if self.centred else back


def held(norm: torch.nn.Module, x: torch.Tensor) -> HeldNorm:
    """A norm at x [position, d_model]. NotApplicable where it is neither a LayerNorm nor an RMSNorm, whatever it is called."""

    def run(v: torch.Tensor) -> torch.Tensor:
        return norm(v[None].to(x.dtype))[0].double()

    with torch.no_grad():
        out = run(x)
        bias = run(torch.zeros_like(x[:1]))[0] if out.shape == x.shape else torch.zeros(0)
        gain = _gain(run, bias, x) if out.shape == x.shape else bias
    for centred in (False, True):
        if out.shape != x.shape:
            break
        wide = x.double()
        plain = gain * (wide - wide.mean(-1, keepdim=True) if centred else wide)
        scale = ((out - bias) * plain).sum(-1, keepdim=True) / (plain * plain).sum(-1, keepdim=True).clamp(min=1e-300)
        allowed = TOLERANCE * (1 if x.dtype == torch.float32 else 100)
        if float((scale * plain + bias - out).norm()) <= allowed * float(out.norm()):
            return HeldNorm(scale, gain, bias, centred)
    raise NotApplicable(
        f"{type(norm).__name__} between layers and logits is no RMSNorm or LayerNorm: no part has a share of it"
    )


def _gain(run: object, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """From the norm's answers to two vectors of +1 and -1 whose mean is zero; of odd width each leaves one entry out."""
    signs = torch.ones(x.shape[-1], dtype=torch.float64, device=x.device)
    signs[1::2] = -1.0
    if len(signs) % 2:
        signs[-1] = 0.0
    gain = torch.zeros_like(signs)
    for probe in (signs, signs.roll(1)):
        said = (run((LENGTH * probe)[None])[0] - bias) * probe * (probe * probe).mean().sqrt()  # type: ignore[operator]
        gain = torch.where(probe != 0, said, gain)
    return gain


def pulled(norms: list[HeldNorm], direction: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A direction [..., position, d_model] after some norms as one before them, and what their biases add along it."""
    constant = torch.zeros(direction.shape[:-1], dtype=direction.dtype, device=direction.device)
    for norm in reversed(norms):
        constant = constant + direction @ norm.bias
        direction = norm.pull(direction)
    return direction, constant
