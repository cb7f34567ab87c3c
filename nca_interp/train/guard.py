"""What stands between a run and the outside: its lock, and its configuration and inputs on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from nca_interp.base import UserError
from nca_interp.data.tokens import TokenMeta
from nca_interp.files import held, weight_hashes
from nca_interp.graft import HeadFile
from nca_interp.store import RunDir, StudyDir, completed, differences, sha256_file, write_record
from nca_interp.train.run import RunConfig


@contextmanager
def locked(run: RunDir) -> Iterator[None]:
    """Hold the run's lock and clear away what a killed process left; Busy if another process trains the run.

    Of a distributed launch only the first process does: another one would clear away what the first is writing.
    """
    if not is_first_process():
        yield
        return
    with held(run.lock, lambda: f"{run.path}: {run.holder()} is training this run; wait for it, or stop it"):
        run.sweep()
        yield


def is_first_process() -> bool:
    """Whether this process of a distributed launch writes the files."""
    return os.environ.get("RANK", "0") == "0"


def claim(run: RunDir, config: RunConfig) -> None:
    """Write run.json, or raise UserError, key by key, where the folder belongs to another configuration."""
    wanted = config.model_dump(mode="json")
    if run.config.exists():
        found = completed(RunConfig, run.read(run.config))
        if lines := list(differences(found, wanted)):
            shown = "\n".join(f"  {line}" for line in lines)
            raise UserError(f"{run.path}: this run was begun with another configuration:\n{shown}\nnothing was changed")
    elif is_first_process():
        write_record(run.config, wanted)


def claim_inputs(study: StudyDir, run: RunDir, config: RunConfig, meta: TokenMeta) -> None:
    """Record the hashes of what the run trains on and starts from, or raise UserError where they are no longer those."""
    now = {f"{config.tokens}/{name}": sha256 for name, sha256 in sorted(meta.sha256.items())}
    for before in filter(None, (config.parent, config.donor)):
        run_before = study.run(before)
        last = run_before.checkpoint(run_before.status()["step"])
        now |= {f"{last.relative_to(study.path)}/{name}": sha256 for name, sha256 in weight_hashes(last).items()}
    if isinstance(config.graft.heads, HeadFile):
        now[config.graft.heads.file] = sha256_file(study.path / config.graft.heads.file)
    if not run.inputs.exists():
        if is_first_process():
            write_record(run.inputs, now)
        return
    before = run.read(run.inputs)
    changed = [
        f"  {name}: SHA-256 then {before.get(name, 'absent')[:12]}, now {now.get(name, 'absent')[:12]}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise UserError(
            f"{run.path}: files that this run depends on were changed after it began:\n" + "\n".join(changed) + "\n"
            f"put them back, or delete {run.path} to begin it again; nothing was changed"
        )
