"""A pair of prompts on the last checkpoint of each run: patched once and kept, and as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from nca_interp.analysis.cache import code_hash, keep, kept
from nca_interp.analysis.causes.resume import Trunk
from nca_interp.analysis.collection.collection import Collection, Settings
from nca_interp.analysis.collection.run import CHECKPOINT, Run
from nca_interp.analysis.pairs.pair import Options, Pair, read_pair
from nca_interp.analysis.pairs.patching import Head, Patching, Site
from nca_interp.analysis.probing.engine import engine_hash
from nca_interp.analysis.probing.opened import open_last
from nca_interp.analysis.prompts.study import last_kept
from nca_interp.analysis.prompts.texts import Encoder, encoder
from nca_interp.analysis.stimuli.base import NotApplicable
from nca_interp.analysis.stimuli.source import unchanged, weights_sha256
from nca_interp.analysis.stimuli.subject import context_length
from nca_interp.base import UserError
from nca_interp.machine import device_type
from nca_interp.measurement import Asked, Shown

CODE = ("causes/resume.py", "pairs/pair.py", "pairs/patching.py", "pairs/study.py", "prompts/texts.py")
"""Files of this package that decide a number, beside those of the probe engine."""
PLACES = ("layer", "position", "head", "from_layer", "from_head")
COLUMNS = ["site", *PLACES, "value", "recovery"]
PAIR = [
    "clean", "corrupt", "answer", "wrong", "quantity", "unit", "clean_value", "corrupt_value", "clean_probability", "corrupt_probability",
    "note",
]  # fmt: skip
SMALL = 1e-3
"""Where clean and corrupted value are nearer, there is nothing to recover."""
SUMMARISED = 3


def measure(run: Run, asked: Asked) -> list[str]:
    """Patch the last checkpoint of a run, unless that is up to date; what cannot be measured is kept with the reason."""
    options, settings = asked.options, asked.collection.settings
    path = run.kept("pairs", run.steps[-1])
    made_from = _weights(run) | {"arguments": options.model_dump(mode="json")} | settings.decide()
    if kept(path, made_from, numbers=("value", "recovery"), integers=PLACES) is not None:
        return []
    told: dict[str, Any] = {name: getattr(options, name) for name in PAIR[:4]}
    try:
        frame = _patched(run, settings, options, asked, told)
    except (NotApplicable, UserError) as reason:
        frame = pd.DataFrame(columns=COLUMNS)
        told["note"] = f"not measured: {reason}"
    frame[list(PLACES)] = frame[list(PLACES)].astype("Int64")
    frame.attrs = {"pair": told.pop("pair", []), "told": told}
    keep(path, frame, made_from)
    return []


def _patched(run: Run, settings: Settings, options: Options, asked: Asked, told: dict[str, Any]) -> pd.DataFrame:
    encode = encoder(run, settings)
    pair = read_pair(encode, options)
    device = settings.device if run.config is None else device_type()
    with unchanged(run.last):
        model: Any = open_last(run.last, device, settings.dtype)
        limits = context_length(model.config.get_text_config()), model.config.get_text_config().vocab_size
        largest = max(*pair.clean, *pair.corrupt, pair.answer, pair.wrong or 0)
        if len(pair.clean) > limits[0] or largest >= limits[1]:
            raise NotApplicable(
                f"{len(pair.clean)} tokens up to {largest}; the model takes {limits[0]} below {limits[1]}"
            )
        patching = Patching(Trunk(model), pair)
    told |= _told(patching, pair, encode)
    found = list(patching.activations(asked.say))
    heads = _largest([f for f in found if f[0]["site"] == "head"], patching, options.top)
    try:
        found += [*patching.to_logits(), *patching.edges(heads)]
    except NotApplicable as reason:
        told["note"] = f"paths: {reason}"
    full, broken = float(patching.full.value[0]), float(patching.broken.value[0])
    if abs(full - broken) < SMALL:
        told["note"] = (
            f"clean and corrupted {told['quantity']} differ by {full - broken:.2g}: there is nothing to recover"
        )
    gap = full - broken if abs(full - broken) >= SMALL else float("nan")
    rows = [{**site, "value": value, "recovery": (value - broken) / gap} for site, value in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def _largest(found: list[tuple[Site, float]], patching: Patching, n: int) -> list[Head]:
    """The heads whose patch changes most, in the order of layers."""
    broken = float(patching.broken.value[0])
    order = sorted(found, key=lambda f: -abs(f[1] - broken))[:n]
    return sorted((site["layer"], site["head"]) for site, _ in order)


def _told(patching: Patching, pair: Pair, encode: Encoder) -> dict[str, Any]:
    answer, full, broken = encode.text(pair.answer), patching.full, patching.broken
    wrong = None if pair.wrong is None else encode.text(pair.wrong)
    return {
        "quantity": f"log probability of {answer!r}" if wrong is None else f"logit of {answer!r} minus {wrong!r}",
        "unit": "nats" if wrong is None else "logits",
        "clean_value": float(full.value[0]), "corrupt_value": float(broken.value[0]),
        "clean_probability": float(full.probability[0]), "corrupt_probability": float(broken.probability[0]), "note": "",
        "pair": [[encode.text(a), encode.text(b)] for a, b in zip(pair.clean, pair.corrupt, strict=True)],
    }  # fmt: skip


def _weights(run: Run) -> dict[str, Any]:
    return {"checkpoint": weights_sha256(run.last), "engine": engine_hash(), "code": code_hash(CODE)}


def tables(collection: Collection, tables: dict[str, pd.DataFrame], asked: Asked) -> dict[str, pd.DataFrame]:
    """Tables `pairs` (a row a run), `pair_tokens` and `patches` (a row a patch); none where no pair was given."""
    pairs, tokens, patches = [], [], []
    for run in collection.runs:
        if not run.steps or not (path := run.kept("pairs", run.steps[-1])).is_file():
            continue
        if (frame := last_kept(path, _weights(run), ("value", "recovery"), PLACES)) is None:
            continue
        at, attrs = run.at(run.steps[-1]), frame.attrs
        pairs.append({**at, **attrs["told"]})
        tokens += [{**at, "position": p, "clean": a, "corrupt": b} for p, (a, b) in enumerate(attrs["pair"])]
        frame.attrs = {}
        patches.append(frame.assign(**at)[[*CHECKPOINT, *COLUMNS]])
    if not pairs:
        return {}
    return {
        "prompt_pairs": pd.DataFrame(pairs, columns=[*CHECKPOINT, *PAIR]),
        "pair_tokens": pd.DataFrame(tokens, columns=[*CHECKPOINT, "position", "clean", "corrupt"]),
        "patches": pd.concat(patches, ignore_index=True),
    }


def summary(collection: Collection, tables: dict[str, pd.DataFrame]) -> Iterator[Shown | str]:
    """What is recovered by the best patch of each kind."""
    if "prompt_pairs" not in tables:
        return
    for run in collection.runs[:SUMMARISED]:
        said = tables["prompt_pairs"][tables["prompt_pairs"].run == run.id]
        if said.empty:
            continue
        one: Any = said.iloc[0]
        if not pd.isna(one.clean_value):
            yield f"{run.label}: {one.quantity}: clean {one.clean_value:+.2f}, corrupted {one.corrupt_value:+.2f}"
        rows = tables["patches"][(tables["patches"].run == run.id) & tables["patches"].recovery.notna()]
        lines = []
        for site, part in rows.groupby("site", sort=False):
            best = part.sort_values("recovery", ascending=False)[:3]
            lines.append([str(site), "  ".join(f"{place(r)} {r.recovery:+.2f}" for r in best.itertuples())])
        yield Shown(
            f"{run.label}: share of the difference that one patch recovers", ["patched", "most"], lines, ("most",)
        )
        if not pd.isna(one.note) and one.note:
            yield f"{run.label}: {one.note}"


def place(row: Any) -> str:
    """Where a patch was made: layer.head, layer@position, or both heads of a path."""
    if row.site == "head -> head":
        return f"{int(row.from_layer)}.{int(row.from_head)}->{int(row.layer)}.{int(row.head)}"
    return f"{int(row.layer)}@{int(row.position)}" if pd.isna(row.head) else f"{int(row.layer)}.{int(row.head)}"
