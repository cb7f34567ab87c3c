"""The study directory: file names are known here and in run_dir.py only. Every write is atomic, every read is checked.

runs/out/<study>/
  study.json                    the resolved configuration, with the command and versions that made it
  plan.json                     what is compared, on which seeds, within which margin: kept with its hash before the first run
  tokens/<source>-<hash>/       train.bin, val.bin, meta.json, tokenizer.json (data/tokens.py)
  runs/<run>/                   one training stage of one regime, domain and seed
    run.json                    its whole configuration
    metrics.jsonl               one line a logged step
    validation.json             loss of each validation row at the last step (pre-training), with its hash
    status.json                 running | done | stopped | diverged | failed, with step, process and time
    run.lock                    held by the process that trains the run
    checkpoints/step-00000100/  a Hugging Face directory + provenance.json + MANIFEST.json
    state/step-00000100/        a resumable state (weights, AdamW moments, step): the newest two, and those asked for
    inputs.json                 SHA-256 of the tokens and the parent's weights that the run began with
    micro_batch.json            sequences a forward pass, where the run was to find that out
    probes/step-00000100.csv    measurements of that checkpoint
    inference/step-00000100.csv the rule-inference curve of it (NCA)
    causes/step-00000100.csv    what it loses without each of its parts (last checkpoint, where asked for)
    decode/step-00000100.csv    what a linear read-out finds of the rule in it (NCA, some checkpoints)
    compare/<table>.csv         its part of the tables of docs/compare.md
  jobs/<host>-<process>.jsonl   what that process began, ended and tried again (for `watch` only)
  nulls/<hash>.csv              probes of randomly initialised models, for all checkpoints of one architecture and token source
  tables/*.csv                  tidy tables of the study, with MANIFEST.json
  tensorboard/<run>/            events, where they were asked for
  report.html

An analysis of checkpoints that come from elsewhere (by default runs/out/analysis/<name>/):
  collection.json               which checkpoints, who they are, how they are read
  measured/<run>/<measurement>/step-00000100.csv
  nulls/, tables/, report.html  as above
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nca_interp.base import UserError
from nca_interp.config import Study
from nca_interp.differences import completed as completed
from nca_interp.differences import differences as differences
from nca_interp.files import MANIFEST as MANIFEST
from nca_interp.files import checkpoint_hash as checkpoint_hash
from nca_interp.files import commit_dir as commit_dir
from nca_interp.files import damage as damage
from nca_interp.files import disk_errors as disk_errors
from nca_interp.files import held
from nca_interp.files import read_json as read_json
from nca_interp.files import refuse_unwritable as refuse_unwritable
from nca_interp.files import seal as seal
from nca_interp.files import sha256_file as sha256_file
from nca_interp.files import write_json as write_json
from nca_interp.files import write_record as write_record
from nca_interp.files import write_text as write_text
from nca_interp.overrides import parse
from nca_interp.readers import damaged, read_object
from nca_interp.run_dir import STATES as STATES
from nca_interp.run_dir import STEP as STEP
from nca_interp.run_dir import RunDir as RunDir

LOCK = ".study.lock"
Harmless = Callable[[dict[str, Any], dict[str, Any]], bool]
TRAIN = "nca-interp train RECIPE --out {}"
SHOWN = 12
"""Differences between two configurations that a message lists before it counts the rest."""


def tables_in(folder: Path) -> list[Path]:
    """Kept tables of a folder, of which each is a .csv with a .json beside it; also where one of the two is lost."""
    return sorted({p.with_suffix(".csv") for p in folder.glob("[!.]*") if p.suffix in (".csv", ".json")})


def kept_table(folder: Path, measurement: str, step: int) -> Path:
    """Where the rows of a measurement of one checkpoint are kept in the folder of its run."""
    return folder / measurement / f"{STEP}{step:08d}.csv"


class AnalysisDir:
    """Files of an analysis: of a study, or of checkpoints that come from elsewhere."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.collection = path / "collection.json"
        self.measured = path / "measured"
        self.nulls = path / "nulls"
        self.tables = path / "tables"
        self.report = path / "report.html"

    def null(self, key: str) -> Path:
        """Probes of the randomly initialised models that `key` stands for."""
        return self.nulls / f"{key}.csv"

    def table(self, name: str) -> Path:
        """Path of one tidy table."""
        return self.tables / f"{name}.csv"

    def check_tables(self) -> None:
        """UserError where a table, or a file beside them, is not as `analyze` wrote it (earlier versions kept no manifest)."""
        if (self.tables / MANIFEST).is_file() and (problem := damage(self.tables)):
            raise damaged(self.tables, problem, f"written again by: {self.analyze()}")

    def analyze(self) -> str:
        """The command that writes the tables."""
        return shlex.join(["nca-interp", "analyze", str(self.path)])

    def read_collection(self) -> dict[str, Any]:
        """collection.json; UserError where it is damaged."""
        mend = "delete this file, and the command that made the analysis writes it again"
        return read_object(self.collection, mend, collection=dict, provenance=dict)

    def claim_collection(self, listed: dict[str, Any], provenance: dict[str, Any]) -> None:
        """Write collection.json, or check that the folder holds an analysis of the same checkpoints; how they are read may
        change, since whatever is measured is kept with that."""
        if self.collection.is_file():
            saved = self.read_collection()["collection"]
            if found := list(differences(saved["entries"], listed["entries"])):
                raise UserError(
                    f"{self.path}: this folder holds an analysis of other checkpoints:\n  {found[0]}\nchoose another --out; "
                    "nothing was changed"
                )
            if saved == listed:
                return
        write_record(self.collection, {"collection": listed, "provenance": provenance})


class StudyDir(AnalysisDir):
    """Files of one study."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.config = path / "study.json"
        self.plan = path / "plan.json"
        self.tokens = path / "tokens"
        self.runs = path / "runs"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def open(cls, path: Path) -> StudyDir:
        """An existing study; UserError if the folder holds none."""
        study = cls(path)
        if not study.config.is_file():
            inside = sorted(p.parent.name for p in path.glob(f"*/{study.config.name}"))
            raise UserError(
                f"{path}: not a study (no {study.config.name} in it)"
                + (f"; it holds studies: {', '.join(inside)}" if inside else "")
            )
        return study

    def run(self, run_id: str) -> RunDir:
        """The directory of one run (it need not exist yet)."""
        return RunDir(self.runs / run_id)

    def token_lock(self, name: str) -> Path:
        """Lock of the process that writes the token directory `name`."""
        return self.tokens / f".{name}.lock"

    def all_runs(self) -> list[RunDir]:
        """Runs that have begun, by name. UserError where one has lost its run.json."""
        runs = [RunDir(p) for p in sorted(self.runs.glob("*")) if p.is_dir() and not p.name.startswith(".")]
        for run in runs:
            if not run.config.is_file() and (run.status_file.is_file() or run.steps()):
                raise damaged(
                    run.config, "no such file, though the run has begun", f"written again by: {self.command()}"
                )
        return [run for run in runs if run.config.is_file()]

    def read_config(self) -> dict[str, Any]:
        """The `study` part of study.json: validate it with `config.parse(Study, ...)`."""
        return dict(self._record()["study"])

    def study(self) -> Study:
        """The configuration, validated; UserError names the file and every field that is wrong."""
        try:
            return parse(Study, self.read_config())
        except UserError as error:
            raise UserError(str(error) if str(self.config) in str(error) else f"{self.config}: {error}") from None

    def read_provenance(self) -> dict[str, Any]:
        """The `provenance` part of study.json: command, versions, commit, machine."""
        return dict(self._record()["provenance"])

    def _record(self) -> dict[str, Any]:
        how = f"delete this file and start the command again that made the study ({TRAIN.format(self.path)}): "
        return read_object(
            self.config, f"{how}it writes the file and trains no finished run again", study=dict, provenance=dict
        )

    def command(self) -> str:
        """The command that trains this study, as far as its record tells."""
        try:
            made = self.read_provenance().get("command")
        except UserError:
            made = None
        return made if isinstance(made, str) else TRAIN.format(self.path)

    @staticmethod
    def may_claim(path: Path) -> bool:
        """Whether a folder that is there is a study, or empty but for what a process that claims it is writing."""
        if not path.is_dir():
            return False
        study, foreign = StudyDir(path), any(not p.name.startswith((".tmp-", LOCK)) for p in path.iterdir())
        lost = any(study.runs.glob("*/run.json"))  # a study without its record; each run knows its own configuration
        return not foreign or lost or study.config.exists()  # another process may have claimed it just now

    def claim(
        self, study: dict[str, Any], provenance: dict[str, Any], harmless: Harmless = lambda there, asked: False
    ) -> bool:
        """Write study.json, or check that the folder belongs to the same study; another one is refused, key by key.

        One that is `harmless` (asked with the configuration there and the one wanted) takes its place, and provenance keeps
        what changed, by which command; True if so.
        """
        if self.config.exists() and not self._changes(study):
            return False
        if self.path.exists() and not self.may_claim(self.path):
            raise UserError(f"{self.path}: not empty and not a study; choose another --out; nothing was changed")
        with held(self.path / LOCK, lambda: f"{self.path}: another process is claiming this folder", patience=30):
            if not self.config.exists():
                write_record(self.config, {"study": study, "provenance": provenance})
                return False
            changes = self._changes(study)
            if changes and not harmless(self.read_config(), study):
                raise UserError(self._another(changes))
            if changes:
                before = self.read_provenance()
                made = {"command": provenance.get("command"), "changed": changes}
                kept = before | {"changes": [*before.get("changes", []), made]}
                write_record(self.config, {"study": study, "provenance": kept})
            return bool(changes)

    def changes(self, study: dict[str, Any], harmless: Harmless) -> tuple[list[str], str]:
        """What `claim` would change of the study that is there, a line each, and why it would refuse to; nothing where it would not."""
        if not self.config.exists():
            return [], ""
        found = self._changes(study)
        return found, self._another(found) if found and not harmless(self.read_config(), study) else ""

    def _changes(self, study: dict[str, Any]) -> list[str]:
        return list(differences(completed(Study, self.read_config()), study))

    def _another(self, changes: list[str]) -> str:
        shown = [f"  {line}" for line in changes[:SHOWN]]
        if len(changes) > SHOWN:
            shown.append(f"  and {len(changes) - SHOWN} more")
        return (
            f"{self.path}: this folder belongs to another configuration:\n" + "\n".join(shown) + "\n"
            "choose another --out, or delete the folder; nothing was changed"
        )
