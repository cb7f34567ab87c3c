"""Hugging Face datasets as streams of rows, a stream a file, which survive a broken connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from nca_interp.base import RunFailed, UserError
from nca_interp.data.specs import TextSpec
from nca_interp.data.text.columns import text_of

ATTEMPTS = 8
"""A read is tried again this many times in a row without a new row before it is given up."""
WAITS = (1.0, 60.0)
"""Seconds before the second attempt, doubled each time, and the longest."""


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


def dataset_of(source: str) -> str:
    """Name or folder of the dataset that an hf: source means."""
    return preset(TextSpec(source=source)).dataset


class HubDataset:
    """The dataset of an hf: source; `found` is what another process knows of it (null: looked up).

    Raises UserError if the dataset, configuration or split is unknown or cannot be reached.
    """

    def __init__(self, spec: TextSpec, found: dict[str, Any] | None = None) -> None:
        self.spec, self._loaded = spec, None
        self.found: dict[str, Any] = found or self._find()
        """Dataset, the commit that its name means now, number of files."""

    def _find(self) -> dict[str, Any]:
        dataset, config, column = preset(self.spec)
        revision = self.spec.revision
        if not Path(dataset).exists():
            try:
                from huggingface_hub import HfApi

                revision = HfApi().dataset_info(dataset, revision=revision).sha
            except Exception:  # offline, a mirror without this call, an unknown name: loading it says what is wrong
                revision = self.spec.revision
        self.found = {"id": dataset, "config": config, "split": self.spec.split, "column": column, "revision": revision}
        try:
            return self.found | {"files": next(persist(lambda _: iter([self._load()]), attempts=3)).num_shards}
        except UserError:
            raise
        except (
            Exception
        ) as error:  # datasets raises many kinds for: offline, unknown name, config or split, damaged file
            raise self._unreadable(error) from None

    def _load(self) -> Any:
        if self._loaded is None:
            import datasets

            folder = Path(self.found["id"])
            if saved_dataset(folder):
                self._loaded = _load_saved(folder, self.found["split"])
            else:
                self._loaded = datasets.load_dataset(
                    self.found["id"], self.found["config"], split=self.found["split"], streaming=True,
                    revision=self.found["revision"],
                )  # fmt: skip
        return self._loaded

    def rows(self) -> Any:
        """The rows, all columns, as a streaming dataset."""
        return self._load()

    def texts(self, file: int, skip: int) -> Iterator[str | None]:
        """Texts of one file after the first `skip`, None where a text is null.

        Raises UserError for rows without text, RunFailed where the connection stays broken.
        """
        number = skip
        try:
            for row in persist(lambda done: open_rows(self._load(), self.found["files"], file, skip + done)):
                yield text_of(row, self.found["column"], partial(self._place, file, number))
                number += 1
        except (UserError, GeneratorExit):
            raise
        except Exception as error:
            if not temporary(error):
                raise self._unreadable(error) from None
            raise RunFailed(
                f"{self.spec.source}: the connection broke at row {number + 1} of file {file + 1} and {ATTEMPTS} attempts "
                f"failed ({_cause(error)}); what was written is kept: the same command continues"
            ) from None

    def _place(self, file: int, row: int) -> str:
        return f"{self.spec.source}: row {row + 1} of file {file + 1}"

    def _unreadable(self, error: Exception) -> UserError:
        dataset, config, _ = preset(self.spec)
        return UserError(
            f"source: {self.spec.source!r} (dataset {dataset}, config {config}, split {self.spec.split}) cannot be "
            f"read: {_cause(error)}; check the name and the network, or use files:<glob> or site:<corpus>"
        )


def saved_dataset(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk`, of one split or of several."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def _load_saved(folder: Path, split: str) -> Any:
    """The rows that `save_to_disk` wrote, as a streaming dataset; of a folder of one split, those."""
    import datasets

    found = datasets.load_from_disk(str(folder))
    if isinstance(found, datasets.DatasetDict):
        if split not in found:
            raise UserError(f"split: {split!r} is not in {folder}; legal: {', '.join(found)}")
        found = found[split]
    files = max(1, min(len(found.cache_files), len(found)))
    return found.with_format(None).to_iterable_dataset(num_shards=files)


def open_rows(dataset: Any, files: int, file: int, skip: int) -> Iterator[dict[str, Any]]:
    """Rows of one of the `files` files of a streaming dataset after the first `skip`."""
    shard = dataset.shard(num_shards=files, index=file)
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


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
