"""The largest micro-batch that fits into memory. It decides memory and speed, not the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size

from nca_interp.base import RunFailed
from nca_interp.readers import read_object
from nca_interp.store import write_record


def halve(record: Path, now: int, share: int) -> int:
    """Record half of the micro-batch that a run has (`now`, unless the record says so), as a divisor of `share` (sequences of one
    process) and at least 1, for this run from here on; returns it."""
    rows = recorded(record, share) or now
    half = max(n for n in range(1, share + 1) if share % n == 0 and (n <= rows // 2 or n == 1))
    write_record(record, {"micro_batch": half})
    return half


def recorded(record: Path, share: int) -> int | None:
    """The micro-batch that a run's record names; None where there is none that divides `share`."""
    if not record.is_file():
        return None
    found = int(read_object(record, "delete it", micro_batch=int)["micro_batch"])
    return found if found > 0 and share % found == 0 else None


def largest_micro_batch(
    accelerator: Accelerator, share: int, attempt: Callable[[int], None], record: Path, run: str
) -> int:
    """The largest divisor of `share` (sequences of one process) with which `attempt` runs on every process.

    `attempt(rows)` does what a step does with that many sequences and leaves nothing behind. What was found is recorded,
    so that a resumed run adds up its gradients in the same order. RunFailed where not even one sequence fits.
    """
    if (found := recorded(record, share)) is not None:
        return found
    sizes = [n for n in range(share, 0, -1) if share % n == 0]

    def smaller() -> int:
        sizes.pop(0)
        return sizes[0] if sizes else 0

    def fits(rows: int) -> int:
        attempt(rows)
        return rows

    try:
        own = find_executable_batch_size(fits, starting_batch_size=share, reduce_batch_size_fn=smaller)()
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise RunFailed(
            f"{run}: not even one sequence fits into memory; gradient_checkpointing=true needs less"
        ) from None
    everywhere = int(accelerator.gather(torch.tensor([own], device=accelerator.device)).min())
    if accelerator.is_main_process:
        write_record(record, {"micro_batch": everywhere})
    accelerator.wait_for_everyone()
    return everywhere
