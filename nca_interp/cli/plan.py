"""What commands share before anything runs: their options, from a recipe to its plan, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from nca_interp.cli.parse import MAX_WORKERS
from nca_interp.errors import UserError

if TYPE_CHECKING:
    from nca_interp.config import Study
    from nca_interp.engine.graph import Plan
    from nca_interp.engine.stands import Stand
    from nca_interp.phase import Phase

RUNS = Path("runs/out")
"""Where studies lie that no folder was named for."""

Workers = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_WORKERS, help="Jobs side by side, as far as memory goes; default one a core or GPU."),
]
Engine = Annotated[
    str,
    typer.Option(metavar="NAME[:ADDRESS]", help="Who runs the jobs: local, or ray[:ADDRESS], a cluster that is there."),
]
Threads = Annotated[int, typer.Option(min=1, max=MAX_WORKERS, help="Threads a job.")]
Probes = Annotated[Path | None, typer.Option(help="Folder with further probe files.")]


def execute_on(device: str, track: list[str], shard: bool, here: bool = True) -> None:
    """Settle how runs are computed, for this process and its workers, before anything touches a device; `here`: on this machine."""
    import os

    from nca_interp.machine import refuse_lost_processes, use_device

    refuse_lost_processes()
    use_device(device, here)
    if track:
        from nca_interp.train.track import TRACK, check

        check(track)
        os.environ[TRACK] = ",".join(track)
    if shard:
        from nca_interp.machine import torchrun
        from nca_interp.train.parallel import SHARD

        if os.environ.get("WORLD_SIZE", "1") == "1":
            raise UserError(f"--shard: there is one process; start several: {torchrun(2)}")
        os.environ[SHARD] = "true"


def arranged(folder: Path, study: Study) -> Study:
    """A study in the order of regimes in which the runs of the folder keep their names, where there is one (`engine.change`)."""
    from nca_interp.engine.change import arranged as in_order
    from nca_interp.machine import resolve_precision
    from nca_interp.store import StudyDir

    directory = StudyDir(folder)
    if not directory.config.is_file():
        return study
    return in_order(directory.read_config(), study, resolve_precision(study.precision, study.model.d_model))


def planned(study: Study, regime: str | None, domain: str | None, seed: int | None, analyze: bool) -> Plan:
    """The plan of a study on this machine."""
    from nca_interp.engine.plan import make_plan
    from nca_interp.machine import resolve_precision

    return make_plan(study, resolve_precision(study.precision, study.model.d_model), regime, domain, seed, analyze)


def part(plan: Plan, share: str | None, job: str | None) -> Plan:
    """One share of a plan, or one job of it. UserError where there is none."""
    from nca_interp.engine import shares

    if share is not None and job is not None:
        raise UserError("--share and --job: give one of them")
    if job is not None:
        return shares.only(plan, job)
    return plan if share is None else shares.share(plan, *shares.parse_share(share))


def check_bands(plan: Plan) -> None:
    """UserError naming the regime whose automata are chosen by a band or measure that no rule reaches."""
    from nca_interp.data.nca.reach import check_reach
    from nca_interp.data.specs import NcaSpec

    sources = {str(run.source): run for run in plan.runs if run.stage == "ppt" and run.source.get("kind") == "nca"}
    for run in sources.values():
        try:
            check_reach(NcaSpec.model_validate(run.source))
        except UserError as error:
            raise UserError(f"regimes.{run.regime}.source: {error}") from None


def stands(folder: Path, study: Study, plan: Plan, refuse: bool = False, anew: bool = False) -> dict[str, Stand]:
    """How far each job of a plan is in a folder; nothing where there is no study yet. What of the study that is there would change is
    printed; of another study, which `train` would refuse, nothing stands (`refuse`: UserError, and nothing is printed)."""
    from nca_interp import machine
    from nca_interp.engine.change import alters_no_run
    from nca_interp.engine.stands import stands_of
    from nca_interp.store import StudyDir

    directory = StudyDir(folder)
    if not directory.config.is_file():
        return {}
    precision = machine.resolve_precision(study.precision, study.model.d_model)
    changed, refused = directory.changes(
        study.model_dump(mode="json"), lambda there, asked: alters_no_run(there, asked, precision, anew)
    )
    if refused and refuse:
        raise UserError(refused)
    if refused:
        print(f"refused     {refused}\n")
        return {}
    if changed and not refuse:
        print(f"changes     {len(changed)} that alter no run: only what is new is trained\n")
    return stands_of(directory, plan)


class Wanted(NamedTuple):
    """What a command is to work on: a recipe, or the study that lies in a folder."""

    words: list[str]
    """What names it in a further command."""
    found: Study | Phase
    folder: Path
    about: str = ""
    """What a recipe says of itself."""


def wanted(name: str, set_: list[str], out: Path | None) -> Wanted:
    """The recipe of that name, or else the study in the folder of that name, with fields changed (`--set`). UserError where there is
    neither, and for a folder of something else."""
    import os

    from nca_interp import discover
    from nca_interp.overrides import call_recipe

    path = Path(name)
    if path.is_dir() and (os.sep in name or path.is_absolute() or name not in discover.load("runs")):
        return _in_folder(path, set_, out)
    recipe = discover.find("runs", name)
    found = call_recipe(recipe.value, set_)
    folder = out or RUNS / found.name
    return Wanted([name, *_set(set_), "--out", str(folder.absolute())], found, folder, recipe.about)


def _in_folder(path: Path, set_: list[str], out: Path | None) -> Wanted:
    from nca_interp.engine.phase_folder import RECORD, read_record
    from nca_interp.overrides import with_overrides
    from nca_interp.store import StudyDir

    if out is not None:
        raise UserError(f"--out {out}: goes with a recipe; {path} is itself the folder that is worked on")
    if (path / RECORD).is_file():
        begun = read_record(path)["provenance"].get("command", "nca-interp train RECIPE")
        raise UserError(
            f"{path}: a phase diagram, which chooses its next runs by the results of others; go on with its recipe: {begun}"
        )
    study = with_overrides(StudyDir.open(path).study(), set_)
    return Wanted([str(path.absolute()), *_set(set_)], study, path)


def _set(overrides: list[str]) -> list[str]:
    return [word for one in overrides for word in ("--set", one)]


def check_folder(folder: Path, study: Study) -> None:
    """UserError unless its corpora are installed, the checkpoints that it starts from are of its model, and it may be written to
    `folder`: new, empty or a study, and not in what its runs read."""
    from nca_interp.checkpoint_spec import CheckpointSpec
    from nca_interp.data.sources import check_installed, inputs
    from nca_interp.outputs import check_output
    from nca_interp.store import StudyDir

    specs = [domain.source for domain in study.domains]
    parents = [regime.source for regime in study.regimes if isinstance(regime.source, CheckpointSpec)]
    others = [r.source for r in study.regimes if r.source is not None and not isinstance(r.source, CheckpointSpec)]
    check_installed([*specs, *others])
    reads = [path for spec in specs for path in inputs(spec.source, spec)]
    reads += [Path(place) for parent in parents for place in parent.paths]
    check_output("--out", folder, "study", StudyDir.may_claim, reads=reads)
    if parents:
        from nca_interp.model.parent import check_parents

        check_parents(study)


def check_engine(name: str) -> None:
    """UserError unless the engine is known and installed; its address is tried later."""
    from nca_interp.engine.engines import LOCAL, parse

    if name != LOCAL:
        parse(name)
