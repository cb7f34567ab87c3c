"""How fast the Dyck source is, beside the published procedure in plain Python and the same rows in vectorised numpy.

`python benchmarks/dyck.py [--rows N] [--tokens N] [--repeat N]`
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nca_interp.data.dyck.rows import dyck_rows
from nca_interp.data.dyck.statistics import dyck_stats
from nca_interp.data.nca.rows import available_cores
from nca_interp.data.rng import below, bits, uniforms
from nca_interp.data.specs import DyckSpec
from nca_interp.data.tokens import write_tokens


def published(spec: DyckSpec, n_rows: int, n_tokens: int) -> None:
    """One token at a time with `random`, open types listed anew for every closer, as the published generators do."""
    rng = random.Random(0)
    for _ in range(n_rows):
        out: list[int] = []
        stack: list[int] = []
        counts = [0] * spec.k
        while len(out) < n_tokens:
            depth = len(stack) if spec.variant == "nested" else sum(counts)
            if depth == 0 or (depth < spec.max_depth and rng.random() < spec.p_open):
                kind = rng.randint(0, spec.k - 1)
                out.append(kind)
                stack.append(kind)
                counts[kind] += 1
            elif spec.variant == "nested":
                out.append(stack.pop() + spec.k)
            else:
                kind = rng.choice([i for i, n in enumerate(counts) if n > 0])
                out.append(kind + spec.k)
                counts[kind] -= 1


def vectorised(spec: DyckSpec, n_rows: int, n_tokens: int) -> None:
    """All rows at once, one numpy step a token; an open bracket, not an open type, is drawn for `shuffle`."""
    keys, rows = bits(1, np.arange(n_rows)), np.arange(n_rows)
    stack = np.zeros((n_rows, spec.max_depth + 1), np.int64)
    depth, out = np.zeros(n_rows, np.int64), np.empty((n_rows, n_tokens), np.uint32)
    for step in range(n_tokens):
        opens = ((uniforms(keys, 3 * step) < spec.p_open) & (depth < spec.max_depth)) | (depth == 0)
        new, top = below(keys, 3 * step + 1, spec.k), np.maximum(depth - 1, 0)
        chosen = top if spec.variant == "nested" else below(keys, 3 * step + 2, np.maximum(depth, 1))
        out[:, step] = np.where(opens, new, stack[rows, chosen] + spec.k)
        stack[rows, np.where(opens, spec.max_depth, chosen)] = stack[rows, top]
        stack[rows, np.where(opens, depth, spec.max_depth)] = new
        depth += np.where(opens, 1, -1)


def rate(work: Callable[[int], object], repeat: int, tokens: int) -> float:
    """Tokens a second of the fastest of `repeat` calls."""
    best = float("inf")
    for number in range(repeat):
        begin = time.perf_counter()
        work(number)
        best = min(best, time.perf_counter() - begin)
    return tokens / best


def main() -> None:
    """Print a line for each variant and ending; rates are the best of the repetitions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--tokens", type=int, default=1025)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    tokens, cores = args.rows * args.tokens, available_cores()
    for variant, depth in (("nested", 16), ("shuffle", 8)):
        for ending in ("balanced", "truncate"):
            spec = DyckSpec.model_validate({"variant": variant, "max_depth": depth, "ending": ending})
            list(dyck_rows(spec, 0, "warm-up", 2, args.tokens, 1))
            rates = {
                n: rate(
                    lambda seed, s=spec, n=n: sum(len(c) for c in dyck_rows(s, seed, "train", args.rows, args.tokens, n)),
                    args.repeat, tokens,
                )
                for n in (1, cores)
            }  # fmt: skip
            print(
                f"{variant} {ending}: {rates[1] / 1e6:.0f} M tokens/s on 1 thread, {rates[cores] / 1e6:.0f} M on {cores}"
            )
        few = max(args.rows // 200, 2)
        plain = rate(lambda _, s=spec, n=few: published(s, n, args.tokens), 2, few * args.tokens)
        numpy_rate = rate(lambda _, s=spec: vectorised(s, 2048, args.tokens), 2, 2048 * args.tokens)
        print(
            f"{variant} peers: published procedure {plain / 1e6:.2f} M tokens/s ({rates[cores] / plain:.0f} times slower), "
            f"numpy {numpy_rate / 1e6:.2f} M ({rates[cores] / numpy_rate:.0f} times slower)"
        )
        rows = np.concatenate(list(dyck_rows(spec, 0, "train", 2048, args.tokens)))
        dyck_stats(rows[:2], spec)
        print(
            f"{variant} statistics: {rate(lambda _, s=spec, r=rows: dyck_stats(r, s), 2, rows.size) / 1e6:.0f} M tokens/s"
        )
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        write_tokens(Path(folder) / "t", spec, n_train=args.rows, n_val=100, seq_len=args.tokens - 1, seed=0)
        print(f"token files, hashed and synced: {tokens / (time.perf_counter() - begin) / 1e6:.0f} M tokens/s")


if __name__ == "__main__":
    main()
