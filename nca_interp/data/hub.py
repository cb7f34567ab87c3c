"""Hugging Face datasets as streams of rows, a stream a file, which survive a broken connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.base import RunFailed, UserError
from nca_interp.data.specs import TextSpec

ATTEMPTS = 8
"""A read is tried again this many times in a row without a new row before it is given up."""
WAITS = (1.0, 60.0)
"""Seconds before the second attempt, doubled each time, and the longest."""
Rows = Iterator[dict[str, Any]]


class HubPreset(NamedTuple):
    """Where a well-known corpus lies on the Hugging Face hub."""

    dataset: str
    config: str | None
    column: str


HUB_PRESETS = {
    "c4": HubPreset("allenai/c4", "en", "text"),
    "openwebtext": HubPreset("Skylion007/openwebtext", None, "text"),
    "openwebmath": HubPreset("open-web-math/open-web-math", None, "text"),
    "codeparrot": HubPreset("codeparrot/codeparrot-clean", None, "content"),
}


def preset(spec: TextSpec) -> HubPreset:
    """Dataset, configuration and text column that an hf: source means."""
    name = spec.source.removeprefix("hf:")
    found = HUB_PRESETS.get(name)
    if found is None:
        dataset, _, config = name.partition(":")
        found = HubPreset(dataset, config or None, "text")
    return found._replace(column=spec.column or found.column)


def find(spec: TextSpec) -> dict[str, Any]:
    """Identity of a source for provenance and for `texts`: dataset, the commit that its name means now, number of files.

    Raises UserError if the dataset, configuration or split is unknown or cannot be reached.
    """
    dataset, config, column = preset(spec)
    revision = spec.revision
    if not Path(dataset).exists():
        try:
            from huggingface_hub import HfApi

            revision = HfApi().dataset_info(dataset, revision=spec.revision).sha
        except Exception:  # offline, a mirror without this call, an unknown name: loading it says what is wrong
            revision = spec.revision
    found = {"id": dataset, "config": config, "split": spec.split, "column": column, "revision": revision}
    rows = persist(lambda _: iter([_load(found)]), attempts=3)
    try:
        return found | {"files": next(rows).num_shards}
    except Exception as error:  # datasets raises many kinds for: offline, unknown name, config or split, damaged file
        raise _unreadable(spec, error) from None


def texts(spec: TextSpec, found: dict[str, Any], file: int, skip: int) -> Iterator[str]:
    """Texts of one file of a dataset after the first `skip`.

    Raises UserError for rows without text, RunFailed where the connection stays broken.
    """
    column = found["column"]
    number = skip
    try:
        for row in persist(lambda done: open_rows(found, file, skip + done)):
            text = row.get(column)
            if not isinstance(text, str):
                known = ", ".join(sorted(k for k, v in row.items() if isinstance(v, str)))
                raise UserError(
                    f"column: {column!r} of {spec.source} holds no text (row {number + 1} of file {file + 1}); "
                    f"text columns: {known or 'none'}"
                )
            number += 1
            yield text
    except (UserError, GeneratorExit):
        raise
    except Exception as error:
        if not temporary(error):
            raise _unreadable(spec, error) from None
        raise RunFailed(
            f"{spec.source}: the connection broke at row {number + 1} of file {file + 1} and {ATTEMPTS} attempts failed "
            f"({_cause(error)}); what was written is kept: the same command continues"
        ) from None


def open_rows(found: dict[str, Any], file: int, skip: int) -> Rows:
    """Rows of one file of a dataset after the first `skip`."""
    shard = _load(found).shard(num_shards=found["files"], index=file)
    return iter(shard.skip(skip) if skip else shard)


def persist(open_at: Callable[[int], Iterator[Any]], attempts: int = ATTEMPTS) -> Iterator[Any]:
    """Items of open_at(0), opened again at the number of items had whenever a temporary error breaks it off."""
    done = failures = 0
    while True:
        try:
            for item in open_at(done):
                yield item
                done += 1
                failures = 0
            return
        except Exception as error:
            failures += 1
            if failures >= attempts or not temporary(error):
                raise
            time.sleep(min(WAITS[0] * 2 ** (failures - 1), WAITS[1]))


def temporary(error: BaseException) -> bool:
    """Whether trying again may help: the connection, a server that is busy; not a missing file or a wrong name."""
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, (OfflineModeIsEnabled, FileNotFoundError, PermissionError, IsADirectoryError)):
        return False
    status = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    if isinstance(status, int):
        return status in (408, 425, 429) or status >= 500
    kinds = {base.__module__.partition(".")[0] for base in type(error).__mro__}
    return isinstance(error, (ConnectionError, TimeoutError)) or bool(
        kinds & {"aiohttp", "httpx", "httpcore", "requests", "urllib3", "ssl", "http"}
    )


def _load(found: dict[str, Any]) -> Any:
    import datasets

    return datasets.load_dataset(
        found["id"], found["config"], split=found["split"], streaming=True, revision=found["revision"]
    )


def _unreadable(spec: TextSpec, error: Exception) -> UserError:
    dataset, config, _ = preset(spec)
    return UserError(
        f"source: {spec.source!r} (dataset {dataset}, config {config}, split {spec.split}) cannot be "
        f"read: {_cause(error)}; check the name and the network, or use files:<glob> or site:<corpus>"
    )


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
