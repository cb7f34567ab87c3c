"""Answers a second, ours against lm-evaluation-harness's own generation. `python benchmarks/evaluate.py [--problems N] [--samples N]`

Both draw the same number of answers of exactly `--tokens` tokens to the same prompts from the same random model of about 1M
parameters (needs the extra [eval]): the harness one problem at a time, as it does by default (batch_size 1, every draw a request of its own),
ours in batches of `--batch`. Rounds alternate; prints the median seconds of wall clock and their ratio. `--plan` prints instead how
many forward passes 64 answers to 164 problems take at a batch.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

ROUNDS = 3
HUMANEVAL = (164, 64, 500)
"""Problems, answers to each, longest answer."""


def model_and_tokenizer(folder: Path) -> tuple[Any, Any, Tokenizer]:
    """A random Llama of about 1M parameters and a tokenizer of bytes."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    coder: Any = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    coder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    coder.decoder = decoders.ByteLevel()
    coder.add_special_tokens(["<|endoftext|>"])
    coder.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=coder.get_vocab_size(), hidden_size=128, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=1024, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    return LlamaForCausalLM(config).eval(), tokenizer, coder


def theirs(model: Any, tokenizer: Any, prompts: list[str], samples: int, tokens: int) -> float:
    """Seconds of the harness's own model, one answer at a time."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    settings = {
        "until": ["\x00never"],
        "max_gen_toks": tokens,
        "do_sample": True,
        "temperature": 0.6,
        "min_new_tokens": tokens,
    }
    requests = [
        Instance("generate_until", {}, (p, dict(settings)), 0, ("bench", i, 1))
        for i, p in enumerate(prompts)
        for _ in range(samples)
    ]
    begin = time.perf_counter()
    lm.generate_until(requests, disable_tqdm=True)
    return time.perf_counter() - begin


def ours(model: Any, coder: Tokenizer, prompts: list[str], samples: int, tokens: int, batch: int) -> float:
    """Seconds of `evaluate.generate`."""
    from nca_interp.evaluate.generate import Request, generate
    from nca_interp.evaluate.sampling import SAMPLINGS

    requests = [
        Request(tuple(coder.encode(p, add_special_tokens=False).ids), tuple(range(samples)), tokens, ("\x00never",), i)
        for i, p in enumerate(prompts)
    ]
    begin = time.perf_counter()
    found = list(generate(model, lambda ids: coder.decode(ids), requests, SAMPLINGS["paper-gsm8k"], None, batch))
    assert len(found) == len(prompts)
    return time.perf_counter() - begin


def main() -> None:
    """The two times and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--plan", action="store_true")
    given = parser.parse_args()
    if given.plan:
        problems, answers, longest = HUMANEVAL
        passes = math.ceil(problems * answers / given.batch) * longest
        print(
            f"{problems} problems x {answers} answers in batches of {given.batch}: at most {passes:,} forward passes of one token a row"
        )
        return
    torch.set_num_threads(given.threads)
    prompts = [f"Question: how much is {n} + {7 * n}? Think of it twice.\nAnswer:" for n in range(given.problems)]
    with tempfile.TemporaryDirectory() as folder:
        model, tokenizer, coder = model_and_tokenizer(Path(folder))
        print(
            f"{sum(p.numel() for p in model.parameters()):,} parameters, {given.problems} problems x {given.samples} answers of {given.tokens} tokens"
        )
        seconds: dict[str, list[float]] = {"harness": [], "ours": []}
        for _ in range(ROUNDS):
            seconds["harness"].append(theirs(model, tokenizer, prompts, given.samples, given.tokens))
            seconds["ours"].append(ours(model, coder, prompts, given.samples, given.tokens, given.batch))
    slow, fast = (statistics.median(seconds[name]) for name in ("harness", "ours"))
    print(f"harness {slow:.2f} s, ours {fast:.2f} s (batch {given.batch}): {slow / fast:.1f} times as fast")


if __name__ == "__main__":
    main()
