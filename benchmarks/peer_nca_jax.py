"""The published NCA procedure (arXiv 2603.10055 and its released code), written plainly in JAX/Flax as a yardstick.

`python benchmarks/peer_nca_jax.py CORES STATES,STATES,... RULES` prints one JSON object: tokens/s of roll-out to tokens for
each alphabet, `eager` (vmap only, as released: every call traces anew) and `jit` (the same function jitted by hand), and
rules/s of the gzip filter. Needs jax and flax: `pip install -c constraints.txt -e '.[bench]'`.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

GRID, PATCH, BURN_IN, FRAMES, SCORE_FRAMES, TAU = 12, 2, 10, 27, 10, 1e-4


def limit_cores(cores: int) -> None:
    """Before jax is imported: this process sees `cores` cores; with one, XLA gets one thread."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    if cores == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["JAX_PLATFORMS"] = "cpu"


def make_rollout(n_states: int, n_frames: int) -> Callable[[Any, Any], Any]:
    """Function of (key, rule key) that gives frames [n_frames, grid, grid] of one rule after the burn-in."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = jnp.pad(x, 1, mode="wrap")  # all three axes, as released
            x = nn.Conv(4, (3, 3), padding="VALID")(x)
            x = nn.relu(nn.Conv(16, (1, 1))(x))
            return nn.Conv(n_states, (1, 1))(x)

    network = Network()

    def rollout(key: Any, rule: Any) -> Any:
        parameters = network.init(rule, jnp.zeros((GRID, GRID, n_states)))
        logits = jnp.broadcast_to(jax.random.normal(key, (n_states,)), (GRID, GRID, n_states))
        first = jax.random.categorical(key, logits)

        def step(state: Any, noise: Any) -> tuple[Any, Any]:
            out = network.apply(parameters, jax.nn.one_hot(state, n_states))
            return jax.random.categorical(noise, out / TAU), state

        _, frames = jax.lax.scan(step, first, jax.random.split(key, BURN_IN + n_frames))
        return frames[BURN_IN:]

    return rollout


def tokens_of(frames: Any, n_states: int) -> Any:
    """Tokens [rules, frames * 38] of frames [rules, frames, grid, grid], delimiters included."""
    import jax.numpy as jnp

    rules, n, side = *frames.shape[:2], GRID // PATCH
    cells = (
        frames.reshape(rules, n, side, PATCH, side, PATCH).transpose(0, 1, 2, 4, 3, 5).reshape(rules, n, side**2, -1)
    )
    patches = (cells * n_states ** jnp.arange(PATCH**2)).sum(-1)
    open_, close = (jnp.full((rules, n, 1), n_states**PATCH**2 + i, patches.dtype) for i in (0, 1))
    return jnp.concatenate([open_, patches, close], -1).reshape(rules, -1)


def filter_scores(keys: Any, rules: Any, n_states: int) -> list[float]:
    """The released filter: roll out 10 frames, then one rule after the other through gzip level 9 as int32 bytes."""
    import io

    import jax

    frames = jax.vmap(make_rollout(n_states, SCORE_FRAMES))(keys, rules)
    rows = tokens_of(frames, n_states).reshape(len(rules), SCORE_FRAMES, -1)[:, :, 1:-1].reshape(len(rules), -1)
    scores = []
    for i in range(len(rules)):
        data, out = rows[i].tobytes(), io.BytesIO()
        with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as file:
            file.write(data)
        scores.append(len(out.getvalue()) / len(data))
    return scores


def seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure(cores: int, alphabets: list[int], n_rules: int) -> dict[str, Any]:
    """All rates of this process, each from the second of two equal calls on `n_rules` rules: all that is compiled once is."""
    limit_cores(cores)
    import jax
    import numpy as np

    keys, rules = jax.random.split(jax.random.key(0), n_rules), jax.random.split(jax.random.key(1), n_rules)
    n_tokens = n_rules * FRAMES * ((GRID // PATCH) ** 2 + 2)
    out: dict[str, Any] = {"versions": f"jax {jax.__version__}", "eager": {}, "jit": {}}
    for n in alphabets:

        def roll_out(keys: Any, rules: Any, n: int = n) -> Any:
            return tokens_of(jax.vmap(make_rollout(n, FRAMES))(keys, rules), n)

        roll_out(keys, rules).block_until_ready()
        out["eager"][n] = n_tokens / seconds(lambda f=roll_out: f(keys, rules).block_until_ready())
        jitted = jax.jit(roll_out)
        jitted(keys, rules).block_until_ready()
        out["jit"][n] = n_tokens / seconds(lambda f=jitted: f(keys, rules).block_until_ready())
    filter_scores(keys, rules, 10)
    scores: list[float] = []
    out["filter"] = n_rules / seconds(lambda: scores.extend(filter_scores(keys, rules, 10)))
    out["scores"] = np.quantile(scores, [0.05, 0.25, 0.5, 0.75, 0.95]).round(3).tolist()
    return out


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), [int(n) for n in sys.argv[2].split(",")], int(sys.argv[3]))))
