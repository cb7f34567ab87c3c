"""How fast the NCA source is, beside the published procedure in JAX/Flax and beside what this machine can do.

`python benchmarks/nca_generation.py [--states 10] [--no-peer] [--no-file]`, on a machine that does nothing else: about
five minutes, nearly all of them the peer's, or one minute for one alphabet.
The peer (`peer_nca_jax.py`) needs jax and flax: `pip install -c constraints.txt -e '.[bench]'`; without them the rest runs.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from nca_interp.data.nca.rows import Search, available_cores, nca_rows, search
from nca_interp.data.specs import NcaSpec

ALPHABETS = (2, 4, 8, 10, 15)
PEER_RULES, OWN_RULES, SEQ_LEN = 512, 8192, 1024
PAPER_ROWS = 160_000
RELEASE = {"variant": "release", "tau": 1e-4}


def main() -> None:
    """Print the machine's limits, the rates, the peer's and the ratios, and the time of the paper's 164M tokens."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--states", type=int, nargs="+", default=ALPHABETS, help="alphabets to measure")
    parser.add_argument("--no-peer", action="store_true", help="do not measure JAX")
    parser.add_argument("--no-file", action="store_true", help="do not write the 164M tokens")
    args = parser.parse_args()
    cores = available_cores()
    own = {threads: own_rates(threads, args.states) for threads in sorted({1, cores})}
    peak = machine_peaks()
    peers = {} if args.no_peer else {threads: peer_rates(threads, args.states) for threads in sorted({1, cores})}
    for threads, rates in own.items():
        print_rates(threads, rates, peers.get(threads))
    print_bounds(own[1]["tokens"], peak)
    if not args.no_file:
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import nca_generation as b; b.write_paper()"
        subprocess.run([sys.executable, "-c", code], check=True)


def best(work: Callable[[], Any], repeat: int = 3) -> float:
    """Seconds of the fastest of `repeat` calls after a first one, which may compile."""
    times = []
    for _ in range(repeat + 1):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times[1:])


def own_rates(threads: int, alphabets: Sequence[int]) -> dict[str, Any]:
    """Tokens/s from roll-out to tokens of unfiltered rules by alphabet, and rules/s of the filter at 10 states."""
    tokens = {}
    for n in alphabets:
        spec = NcaSpec(**RELEASE, band=None, n_states=n)
        n_tokens = 27 * spec.tokens_per_frame
        tokens[n] = OWN_RULES * n_tokens / best(lambda s=spec, t=n_tokens: drain(s, threads, t))
    spec, found = NcaSpec(**RELEASE), Search()
    list(search(spec, 1, "filter", 1, 0, 1, Search()))
    begin = time.perf_counter()
    for _ in search(spec, 0, "filter", OWN_RULES, 0, threads, found):
        pass
    return {"tokens": tokens, "filter": found.tried / (time.perf_counter() - begin), "search": found.summary(spec)}


def drain(spec: NcaSpec, threads: int, n_tokens: int) -> None:
    """Make OWN_RULES rows and drop them."""
    for _ in nca_rows(spec, 0, "bench", OWN_RULES, n_tokens, threads, Search()):
        pass


def peer_rates(cores: int, alphabets: Sequence[int]) -> dict[str, Any] | None:
    """What peer_nca_jax.py prints, run on `cores` cores."""
    if not all(importlib.util.find_spec(name) for name in ("jax", "flax")):
        print("jax and flax are not installed: pip install -c constraints.txt -e '.[bench]' (their rates are left out)")
        return None
    states = ",".join(map(str, alphabets))
    command = [sys.executable, str(Path(__file__).parent / "peer_nca_jax.py"), str(cores), states, str(PEER_RULES)]
    return dict(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def print_rates(threads: int, own: dict[str, Any], peer: dict[str, Any] | None) -> None:
    """One table: rows are alphabets."""
    print(f"\nroll-out to tokens, 12x12 cells, 2x2 patches, 10 + 27 frames, tau 1e-4, {threads} thread(s); M tokens/s")
    print("states     ours" + ("    eager  ratio  jitted  ratio   " + peer["versions"] if peer else ""))
    for n, rate in own["tokens"].items():
        line = f"{n:6d} {rate / 1e6:8.2f}"
        if peer:
            for kind in ("eager", "jit"):
                other = peer[kind][str(n)]
                line += f" {other / 1e6:8.3f} {rate / other:5.0f}x"
        print(line)
    line = f"filter at 10 states: {own['filter']:,.0f} rules/s"
    if peer:
        line += f", published {peer['filter']:,.0f}, ratio {own['filter'] / peer['filter']:.0f}x; its quantiles {peer['scores']}"
    print(line + f"; ours {list(own['search']['gzip_of_candidates'].values())}")


@njit(fastmath=True, nogil=True)
def _sum(x: Any, repeat: int) -> float:
    total = np.float32(0)
    for _ in range(repeat):
        for i in range(len(x)):
            total += x[i]
        x[0] = total
    return total


def machine_peaks() -> dict[str, float]:
    """Of one core: fused multiply-adds a second in a matrix product, bytes a second read from the level-1 cache."""
    code = (
        "import numpy as np, time; a = np.ones((1024, 1024), np.float32); b = []\n"
        "for _ in range(6):\n t = time.perf_counter(); a @ a; b.append(time.perf_counter() - t)\nprint(1024**3 / min(b))"
    )
    alone = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    product = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True, check=True).stdout
    data, repeat = np.ones(4096, np.float32), 20_000
    return {"fma": float(product), "load": data.nbytes * repeat / best(lambda: _sum(data, repeat))}


def print_bounds(rates: dict[int, float], peak: dict[str, float]) -> None:
    """Time a cell needs for its multiply-adds and for its table rows alone, against the time it takes."""
    print(
        f"\none core: {peak['fma'] / 1e9:.0f} G fused multiply-adds/s (matrix product), {peak['load'] / 1e9:.0f} GB/s from L1"
    )
    print("states  ns/cell  multiply-adds  table rows (ns/cell at peak)  both/actual")
    for n, rate in rates.items():
        cells = 36 * 144 / (27 * 38)
        spent, product, rows = 1e9 / rate / cells, 16 * n / peak["fma"] * 1e9, 5 * 64 / peak["load"] * 1e9
        known = "tabulated" if n == 2 else f"{(product + rows) / spent:.0%}"
        print(f"{n:6d} {spent:8.2f} {product:14.2f} {rows:11.2f} {known:>30}")


def write_paper() -> None:
    """The paper's 164M tokens of the band 0.5 to 1.0 through write_tokens: filter, roll out, tokenise, write, hash."""
    import resource

    from nca_interp.data.tokens import write_tokens

    spec = NcaSpec(**RELEASE, band=(0.5, 1.0))
    list(nca_rows(spec, 1, "warm-up", 2, SEQ_LEN + 1, 1, Search()))
    before = resource.getrusage(resource.RUSAGE_SELF)
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        meta = write_tokens(Path(folder) / "tokens", spec, n_train=PAPER_ROWS, n_val=64, seq_len=SEQ_LEN, seed=0)
        seconds = time.perf_counter() - begin
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime - before.ru_utime - before.ru_stime
    tried = meta.provenance["train"]["candidates_tried"]
    print(
        f"\n{PAPER_ROWS * SEQ_LEN / 1e6:.1f}M tokens of the 0.5-1.0 band, filtered, written and hashed on {available_cores()} cores: "
        f"{seconds:.1f} s ({cpu:.1f} s of CPU), {tried:,} candidates, peak memory {usage.ru_maxrss / 2**20:.2f} GiB; "
        f"SHA-256 of train.bin {meta.sha256['train.bin'][:16]}"
    )


if __name__ == "__main__":
    main()
