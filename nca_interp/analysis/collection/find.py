"""From what a user names to a list of checkpoints: directories, series of them, hub revisions, files that list them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from nca_interp.analysis.collection.collection import Entry, Listed, Settings
from nca_interp.analysis.stimuli.source import HUB_NAME
from nca_interp.base import UserError, digest
from nca_interp.overrides import parse

LABELLED = re.compile(r"([^=/\\@]+)=(.+)", re.DOTALL)
"""LABEL=checkpoint."""
HUB_SERIES = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@([\w.*?-]*[*?][\w.*?-]*)")
"""org/name@step*: every branch or tag of that pattern."""
STEP_NAME = re.compile(
    r"(?:.*[^a-z])?(?:checkpoint|ckpt|global[_-]?step|step|iter|iteration)s?[-_]?0*(\d+)", re.IGNORECASE
)
"""checkpoint-500, step_1000, step-00000100, global_step20, ..."""
FILES = (".yaml", ".yml", ".json", ".py")
"""Endings of files that list checkpoints."""


def find(names: Iterable[str], settings: Settings, title: str = "") -> Listed:
    """The checkpoints that `names` stand for, in order, each once, with identity.

    A name is a checkpoint directory; a folder of step folders, which becomes one run; `org/name[@revision]` of the hub, or
    `org/name@step*` for all its revisions of that pattern; a file that lists checkpoints (.yaml, .json, .py); each but the last
    with `LABEL=` in front if wished. UserError names what is no checkpoint, is named twice, or has a label that another has.
    """
    groups = [list(_entries(name)) for name in names]
    entries = [entry for group in groups for entry in group]
    if not entries:
        raise UserError("no checkpoint was named")
    places: dict[str, str] = {}
    for entry in entries:
        place = str(Path(entry.path).resolve()) if Path(entry.path).exists() else entry.path
        if place in places:
            raise UserError(f"--checkpoint {entry.path}: named twice; a checkpoint is analysed once")
        places[place] = entry.run
    owners: dict[str, int] = {}
    for index, group in enumerate(groups):
        for run in {entry.run for entry in group}:
            if run in owners:
                raise UserError(
                    f"two checkpoints are called {run!r}; give them labels: --checkpoint one={groups[owners[run]][0].path} "
                    f"--checkpoint other={group[0].path}"
                )
            owners[run] = index
    labels = list(dict.fromkeys(entry.label or entry.run for entry in entries))
    return Listed(title=title or _title(labels), entries=tuple(entries), settings=settings)


def folder_name(listed: Listed) -> str:
    """Name of the folder of an analysis: the runs' names, and a hash where these are long."""
    runs = list(dict.fromkeys(entry.run for entry in listed.entries))
    name = "+".join(runs)
    return name if len(name) <= 80 else f"{name[:60]}-{digest(runs, 8)}"


def _title(labels: list[str]) -> str:
    return (
        labels[0]
        if len(labels) == 1
        else " and ".join(labels)
        if len(labels) == 2
        else f"{len(labels)} models: {', '.join(labels)}"
    )


def _entries(name: str) -> Iterator[Entry]:
    """The checkpoints of one name."""
    label, place = "", name
    if not Path(name).exists() and (match := LABELLED.fullmatch(name)):
        label, place = match[1].strip(), match[2].strip()
    path = Path(place)
    one_file = path.suffix == ".json" and (path.parent / "config.json").is_file()  # the check of the checkpoint says so
    if path.suffix.lower() in FILES and not path.is_dir() and not one_file:
        if label:
            raise UserError(f"--checkpoint {name}: labels of a file that lists checkpoints stand in the file")
        yield from listed(path)
    elif match := HUB_SERIES.fullmatch(place):
        yield from _revisions(match[1], match[2], label)
    elif path.is_dir() and not (path / "config.json").is_file() and (steps := step_folders(path)):
        for step, directory in steps.items():
            yield _entry(str(directory), label or _name(path), label, {"step": step})
    elif path.is_dir() or not HUB_NAME.fullmatch(place):
        yield _entry(place, label or _name(path), label, {})
    else:
        yield _entry(place, label or _slug(place), label or place, {})


def step_folders(folder: Path) -> dict[int, Path]:
    """Checkpoints in the folders of a training series by step, ascending; a step without weights is refused by name."""
    found: dict[int, Path] = {}
    for path in sorted(p for p in folder.iterdir() if p.is_dir()):
        if (match := STEP_NAME.fullmatch(path.name)) and (path / "config.json").is_file():
            step = int(match[1])
            if step in found:
                raise UserError(f"{folder}: {found[step].name} and {path.name} are of one step")
            found[step] = path
    return dict(sorted(found.items()))


def _entry(place: str, run: str, label: str, said: dict[str, Any]) -> Entry:
    """An entry with what the checkpoint's own files say of it."""
    known = {**_of_files(Path(place)), **said}
    own_run = known.pop("run", None)
    known_label = known.pop("label", "")
    run = run if label else (own_run or run)
    return Entry(path=place, run=_slug(run), label=label or known_label or run, **known)


def _of_files(directory: Path) -> dict[str, Any]:
    """Identity of a checkpoint by our provenance, a Trainer's trainer_state.json, or its folder's name."""
    from nca_interp.model.checkpoint import read_provenance

    if not directory.is_dir():
        return {}
    ours = read_provenance(directory)
    if ours.get("run"):
        kept = {
            k: ours[k]
            for k in ("run", "regime", "domain", "seed", "stage", "step", "tokens")
            if ours.get(k) is not None
        }
        return {k: v for k, v in kept.items() if v != ""}
    found: dict[str, Any] = {}
    if match := STEP_NAME.fullmatch(directory.name):
        found["step"] = int(match[1])
    try:
        state = json.loads((directory / "trainer_state.json").read_text(encoding="utf-8"))
        found["step"] = int(state["global_step"])
        if int(state.get("num_input_tokens_seen") or 0):
            found["tokens"] = int(state["num_input_tokens_seen"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return found


def _revisions(repository: str, pattern: str, label: str) -> Iterator[Entry]:
    from huggingface_hub import list_repo_refs

    try:
        refs = list_repo_refs(repository)
    except Exception as error:  # connection errors of several libraries; what the hub answers for unknown names
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(f"{repository}: the Hugging Face hub does not list its revisions ({reason})") from None
    names = [ref.name for ref in (*refs.branches, *refs.tags) if fnmatchcase(ref.name, pattern)]
    steps = {int(digits[-1]): name for name in names if (digits := re.findall(r"\d+", name))}
    if not steps:
        there = ", ".join(sorted(ref.name for ref in refs.branches)[:8])
        raise UserError(f"{repository}@{pattern}: no revision with a number is called so; there are: {there}")
    for step, name in sorted(steps.items()):
        yield Entry(path=f"{repository}@{name}", run=_slug(label or repository), label=label or repository, step=step)


def listed(path: Path) -> Iterator[Entry]:
    """The checkpoints that a file names: a list, or `checkpoints:` with one, of mappings with the fields of Entry.

    Paths are relative to the file. A Python file defines CHECKPOINTS, or a function `checkpoints()`, that gives the list.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    rows = _rows(path)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(
            f"{path}: expected a list of checkpoints, each with path: and, as wished, {', '.join(k for k in Entry.model_fields if k != 'path')}"
        )
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("path"), str):
            raise UserError(f"{path}: checkpoint {number} has no path")
        place = row["path"]
        local = Path(place) if Path(place).is_absolute() else path.parent / place
        if local.exists() or not HUB_NAME.fullmatch(place):
            place = str(local)
        said = {k: v for k, v in row.items() if k not in ("path", "label", "run")}
        if (
            Path(place).is_dir()
            and not (Path(place) / "config.json").is_file()
            and (steps := step_folders(Path(place)))
        ):
            places = [(str(directory), {**said, "step": step}) for step, directory in steps.items()]
        else:
            places = [(place, {**(_of_files(Path(place)) | said)})]
        for one, known in places:
            known.pop("run", None)
            name = row.get("run") or _default_run(row) or _name(Path(place))
            entry = {"path": one, "run": _slug(str(name)), "label": str(row.get("label", "")), **known}
            try:
                yield parse(Entry, entry)
            except UserError as error:
                raise UserError(f"{path}: checkpoint {number}: {error}") from None


def _default_run(row: dict[str, Any]) -> str:
    """stage.regime.domain.sN of what is given of these, where a regime or label and a seed are."""
    name = row.get("regime") or row.get("label")
    if name is None or row.get("seed") is None:
        return str(row.get("label") or name or "")
    parts = [row.get("stage"), name, row.get("domain"), f"s{row['seed']}"]
    return ".".join(str(part) for part in parts if part)


def _rows(path: Path) -> Any:
    if path.suffix.lower() == ".py":
        from nca_interp.discover import load_module

        module = load_module(path)
        rows = getattr(module, "CHECKPOINTS", None) or getattr(module, "checkpoints", None)
        if rows is None:
            raise UserError(f"{path}: defines neither CHECKPOINTS nor checkpoints()")
        return list(rows() if callable(rows) else rows)
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not readable as YAML ({first})") from None
    return found.get("checkpoints") if isinstance(found, dict) else found


def _name(path: Path) -> str:
    """What a directory is called: its last part, with the one above where that is only a step."""
    path = path.resolve()
    parts = [path.name]
    if STEP_NAME.fullmatch(path.name) and path.parent.name:
        above = path.parent.parent if path.parent.name == "checkpoints" else path.parent
        parts.insert(0, above.name)
    return "-".join(parts)


def _slug(text: str) -> str:
    """A name that can be that of a folder."""
    slug = re.sub(r"[^\w.+-]+", "-", text).strip("-.")[:100]
    return slug or "model"
