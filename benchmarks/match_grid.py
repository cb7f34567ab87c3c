"""Measure the default grid of `nca-interp match` and write nca_interp/analysis/match_grid.json.

To be run whenever the generator or a coordinate changes (a test says when): python benchmarks/match_grid.py
"""

from __future__ import annotations

import argparse
import time

from nca_interp.analysis.complexity.calibration import LENGTHS, NAMES
from nca_interp.analysis.matching.grid import FILE, key, make_cells, measure, reference_cells
from nca_interp.data.tokens import GENERATOR_VERSION
from nca_interp.store import write_text

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    threads = parser.parse_args().threads
    specs = [*reference_cells(), *(cell.spec for cell in make_cells())]
    lines = []
    begin = time.perf_counter()
    for footing in LENGTHS:
        for spec in specs:
            entry = measure(spec, footing, threads)
            lines.append((key(spec, footing), entry))
            print(f"{time.perf_counter() - begin:6.0f} s  {footing}  {entry['spec']}  {entry.get('mean')}", flush=True)
    import json

    head = {"coordinates": NAMES, "generator_version": GENERATOR_VERSION, "command": "python benchmarks/match_grid.py"}
    cells = ",\n".join(f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(lines))
    write_text(FILE, f'{json.dumps(head)[:-1]}, "cells": {{\n{cells}\n}}}}\n')
    print(f"{len(lines)} cells in {time.perf_counter() - begin:.0f} s: {FILE}")
