"""How often the signs of a phase diagram are false, and what its seeds find. `python benchmarks/phase.py --phases 500`: the table of
docs/phase.md. Runs on one core; nothing is trained."""

from __future__ import annotations

import argparse

import numpy as np

from nca_interp.analysis.verdicts.sequential import Looks
from nca_interp.analysis.verdicts.simulate_phase import Ended, Truth, simulate

CELLS, LOOKS, SEEDS = 12, Looks(3, 8), 60


def ended(truth: Truth, phases: int) -> list[Ended]:
    """So many phases of one truth."""
    rng = np.random.default_rng(1)
    return [simulate(truth, rng) for _ in range(phases)]


def share(flags: list[bool]) -> str:
    """A share with its standard error (cells of a phase are correlated, so it is a little too small)."""
    p = float(np.mean(flags))
    return f"{p:.3f} ± {(p * (1 - p) / len(flags)) ** 0.5:.3f}"


def rows(phases: int) -> list[tuple[str, str, str]]:
    """(what, should be, found)."""
    none = (0.0,) * CELLS
    normal, heavy = ended(Truth(none, LOOKS, SEEDS), phases), ended(Truth(none, LOOKS, SEEDS, "t3"), phases)
    mixed = ended(Truth((0.0,) * 6 + (1.5,) * 6, LOOKS, SEEDS), phases)
    blind = ended(Truth((0.0,) * 6 + (1.5,) * 6, LOOKS, SEEDS, reach=False), phases)
    even = ended(Truth((0.0,) * 6 + (1.5,) * 6, Looks(SEEDS // CELLS, SEEDS // CELLS), SEEDS), phases)
    mostly = (0.0,) + (1.5,) * 3 + (6.0,) * 8
    three, three_even = (
        ended(Truth(mostly, looks, SEEDS), phases) for looks in (LOOKS, Looks(SEEDS // CELLS, SEEDS // CELLS))
    )
    strong = ended(Truth((3.0,) * CELLS, LOOKS, SEEDS), phases)
    true = [one for end in mixed for one in end.standings[6:] if one.sign == "harms"]
    null = [one for end in mixed for one in end.standings[:6]]
    return [
        ("a cell has a sign, no effect anywhere", "<= 0.05", share(signs(normal))),
        ("the same, ordinary 95 % interval at each look", "", share([flag for end in normal for flag in end.naive])),
        ("the same, losses with heavy tails (t with 3 degrees)", "<= 0.05", share(signs(heavy))),
        ("any cell has a sign by Holm's p, no effect anywhere", "<= 0.05", share([any(end.family) for end in normal])),
        ("a cell without effect has a sign, half of the cells have 1.5 sd", "<= 0.05", share([o.sign != "uncertain" for o in null])),
        ("a cell of 1.5 sd has the true sign", "", share([o.sign == "harms" for end in mixed for o in end.standings[6:]])),
        ("the same, if doubt alone chose the next cell", "", share([o.sign == "harms" for end in blind for o in end.standings[6:]])),
        (f"the same, {SEEDS // CELLS} seeds for every cell and one look", "", share([o.sign == "harms" for end in even for o in end.standings[6:]])),
        ("a cell of 1.5 sd has the true sign, eight of the cells have 6 sd", "", share([o.sign == "harms" for end in three for o in end.standings[1:4]])),
        (f"the same, {SEEDS // CELLS} seeds for every cell and one look", "", share([o.sign == "harms" for end in three_even for o in end.standings[1:4]])),
        ("seeds of a cell without effect, and of one of 1.5 sd, mean", "", f"{mean_n(mixed, slice(6))}, {mean_n(mixed, slice(6, None))}"),
        ("effect of those with the true sign, mean (truth 1.5)", "1.5", f"{np.mean([o.effect for o in true]):.2f}"),
        ("a cell of 3 sd has the true sign", "", share([o.sign == "harms" for end in strong for o in end.standings])),
    ]  # fmt: skip


def signs(found: list[Ended]) -> list[bool]:
    """Whether each cell has one."""
    return [one.sign != "uncertain" for end in found for one in end.standings]


def mean_n(found: list[Ended], which: slice) -> str:
    """Seeds a cell."""
    return f"{np.mean([one.n for end in found for one in end.standings[which]]):.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phases", type=int, default=500)
    phases = parser.parse_args().phases
    print(
        f"{CELLS} cells, three to a scratch arm, {LOOKS.first} to {LOOKS.last} seeds, {SEEDS} seeds in all; {phases} phases\n"
    )
    print("| what | should be | found |\n|---|---|---|")
    for row in rows(phases):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
