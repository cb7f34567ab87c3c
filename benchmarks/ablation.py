"""What ablating all heads one by one costs, resumed from each head's layer, against as many full passes.

`python benchmarks/ablation.py [--sizes 128x6x256x2048,...] [--threads N] [--repeat N]`; a size is n_ctx x layers x d_model x
vocabulary, 8 heads, 16 sequences of random tokens, random Llama. Both give the loss of every target; measured in turn in one
process, least CPU time of `--repeat`.

resumed       `ablation.ablate`, mean ablation, with its own passes for the means
full          as many passes of the model (sdpa, its own logits, cross-entropy), a hook before the output projection
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nca_interp.analysis.attention.kernel import FAST, register
from nca_interp.analysis.causes.ablation import Site, ablate, mean_outputs
from nca_interp.analysis.causes.effects import Metric, Task
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.stimuli.base import Batch

HEADS = 8


def setting(n_ctx: int, layers: int, d_model: int, vocabulary: int) -> tuple[Any, Task]:
    """A random model, and all targets of random tokens."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=d_model, intermediate_size=8 * d_model // 3, num_hidden_layers=layers,
        num_attention_heads=HEADS, num_key_value_heads=HEADS, max_position_embeddings=n_ctx,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, attn_implementation=register()).eval()
    tokens = np.random.default_rng(0).integers(0, vocabulary, (16, n_ctx + 1))
    batch = Batch(tokens[:, :-1], tokens[:, 1:])
    metrics = {"loss": Metric(lambda scored, _: scored.nll.mean(1), "nats per token", 1)}
    return model, Task("random", batch, np.ones(n_ctx, dtype=bool), metrics)


def full_passes(model: Any, task: Task, means: list[torch.Tensor]) -> dict[Site, torch.Tensor]:
    """The same effects by hooks: every head costs a whole pass."""
    losses: dict[Site, torch.Tensor] = {}
    model.set_attn_implementation("sdpa")
    for layer, block in enumerate(model.model.layers):
        for head in range(HEADS):

            def edit(_: Any, args: tuple[Any, ...], layer: int = layer, head: int = head) -> tuple[Any, ...]:
                z = args[0].unflatten(-1, (HEADS, -1)).clone()
                z[:, :, head] = means[layer][:, head]
                return (z.flatten(-2),)

            handle = block.self_attn.o_proj.register_forward_pre_hook(edit)
            parts = []
            with torch.inference_mode():
                for part in task.slices():
                    logits = model(input_ids=part.tokens("cpu"), use_cache=False).logits
                    targets = torch.from_numpy(part.batch.targets)
                    parts.append(F.cross_entropy(logits.mT, targets, reduction="none").mean(1))
            handle.remove()
            losses[Site("head", layer, head)] = torch.cat(parts).double()
    model.set_attn_implementation(FAST)
    return losses


def seconds(work: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """CPU seconds of a call, all threads, and what it returns."""
    start = time.process_time()
    result = work(*arguments)
    return time.process_time() - start, result


def main() -> None:
    """Print one line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="128x4x96x256,128x4x256x10002,128x8x256x4096")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'n_ctx x layers x d_model x vocabulary':40} heads  resumed s   full s  ratio  largest difference")
    for size in options.sizes.split(","):
        model, task = setting(*(int(part) for part in size.split("x")))
        trunk = Trunk(model)
        means = mean_outputs(trunk, task)
        ours, theirs, difference = [], [], 0.0
        for _ in range(options.repeat):
            took, effects = seconds(ablate, trunk, task, "mean", None, False)
            ours.append(took)
            took, losses = seconds(full_passes, model, task, means)
            theirs.append(took)
            difference = max(float((effects.after[s]["loss"] - v).abs().max()) for s, v in losses.items())
        best, peer = min(ours), min(theirs)
        print(f"{size:40} {len(losses):5} {best:10.2f} {peer:8.2f} {best / peer:6.2f}  {difference:.1e}", flush=True)


if __name__ == "__main__":
    main()
