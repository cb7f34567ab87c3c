"""How fast the NCA source is: tokens and rules a second. `python benchmarks/nca_generation.py [--threads N] [--set field=value]`"""

from __future__ import annotations

import argparse
import json
import time

from nca_interp.data.nca_rows import Search, available_cores, nca_rows
from nca_interp.data.specs import NcaSpec


def main() -> None:
    """Print one line for the first call (load or compile the kernel) and one for each repetition."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=JSON")
    args = parser.parse_args()
    values = {key: json.loads(value) for key, value in (item.split("=", 1) for item in args.set)}
    spec = NcaSpec(**values)
    begin = time.perf_counter()
    list(nca_rows(spec, 0, "warm-up", 2, args.seq_len + 1, args.threads, Search()))
    print(f"{spec}\nfirst rows after {time.perf_counter() - begin:.1f} s (compiles where no cache is)")
    for seed in range(args.repeat):
        found, begin, cpu = Search(), time.perf_counter(), time.process_time()
        tokens = sum(
            chunk.size for chunk in nca_rows(spec, seed, "train", args.rows, args.seq_len + 1, args.threads, found)
        )
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        accepted = found.accepted / found.tried
        print(
            f"{args.threads} threads: {tokens / seconds / 1e6:.2f} M tokens/s ({tokens / cpu / 1e6:.2f} M a CPU second), {args.rows / seconds:.0f} rows/s, "
            f"{found.tried / seconds:.0f} candidate rules/s, {accepted:.1%} accepted"
        )


if __name__ == "__main__":
    main()
