"""Cross-entropy of a linear head in chunks, ours and torch's, against the plain one. `python benchmarks/loss.py [--threads N]`

Prints milliseconds of processor time forward and backward (median of rounds in which all take their turn), and the error against float64: of the loss (relative), of both gradients (norm).
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import torch
import torch.nn.functional as F

from nca_interp.model.loss import IGNORE, linear_nll_sum

SHAPES = ((4096, 128, 2048), (4096, 512, 10_002), (2048, 512, 50_257))
ROUNDS = 5


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """All logits, in fp32."""
    logits = F.linear(hidden, weight.to(hidden.dtype)).float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def torch_chunked(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """torch's own, from 2.13 on."""
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=512, acc_policy="accurate")
    head = weight.to(hidden.dtype)
    return F.linear_cross_entropy(hidden, head, targets, reduction="sum", ignore_index=IGNORE, options=options)


def main() -> None:
    """One line for each shape, precision and function."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    torch.set_num_threads(parser.parse_args().threads)
    warnings.simplefilter("ignore")
    functions = {"plain": plain, "ours": linear_nll_sum}
    if hasattr(F, "linear_cross_entropy"):
        functions["torch"] = torch_chunked
    for n, d, v in SHAPES:
        for dtype in (torch.bfloat16, torch.float32):
            torch.manual_seed(0)
            hidden, weight = torch.randn(n, d).to(dtype).requires_grad_(), (torch.randn(v, d) * 0.05).requires_grad_()
            targets = torch.randint(v, (n,))
            targets[::7] = IGNORE
            exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
            truth = F.cross_entropy(exact[0] @ exact[1].T, targets, ignore_index=IGNORE, reduction="sum")
            gradients = torch.autograd.grad(truth, exact)
            seconds: dict[str, list[float]] = {name: [] for name in functions}
            for _ in range(ROUNDS):
                for name, function in functions.items():
                    begin = time.process_time()
                    torch.autograd.grad(function(hidden, weight, targets), (hidden, weight))
                    seconds[name].append(time.process_time() - begin)
            for name, function in functions.items():
                loss = function(hidden, weight, targets)
                found = torch.autograd.grad(loss, (hidden, weight))
                errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, gradients, strict=True)]
                wrong = abs(float(loss.detach() / truth.detach()) - 1)
                print(
                    f"{n} x {d} -> {v:6} {str(dtype)[6:]:9} {name:6} {statistics.median(seconds[name]) * 1e3:8.1f} ms   loss {wrong:.1e}   "
                    f"gradients {errors[0]:.1e} {errors[1]:.1e}"
                )


if __name__ == "__main__":
    main()
