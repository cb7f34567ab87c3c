"""From a study's runs to the tidy tables of docs/tables.md; a report reads nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nca_interp.analysis.cache import lost, write_table
from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import CHECKPOINT, Run, ppt_of, validations, weights_hash
from nca_interp.analysis.complexity.vector import summaries
from nca_interp.analysis.elsewhere import described
from nca_interp.analysis.probing.patterns import export_trajectory
from nca_interp.analysis.start import policy_of, start_table
from nca_interp.analysis.verdicts.best_scratch import scratches, with_best
from nca_interp.analysis.verdicts.carriers import transfer_tables
from nca_interp.analysis.verdicts.claims import claims_table
from nca_interp.analysis.verdicts.contrasts import contrast_tables
from nca_interp.analysis.verdicts.evidence import accuracies, final_losses
from nca_interp.analysis.verdicts.plan import declared, primary
from nca_interp.analysis.verdicts.published import published_table
from nca_interp.analysis.verdicts.speedup import Curve, speedup_tables
from nca_interp.analysis.verdicts.statistics import wilson
from nca_interp.base import UserError
from nca_interp.beside import beside
from nca_interp.config import Study
from nca_interp.data.sample import of_tokens
from nca_interp.data.text.notes import notes
from nca_interp.data.tokens import TokenFile
from nca_interp.measurement import Asked, Measurement, measurements, resolve
from nca_interp.readers import read_object
from nca_interp.store import MANIFEST, StudyDir, seal, tables_in, write_json, write_record

RUNS = [
    "run", "regime", "label", "role", "domain", "seed", "stage", "state", "steps", "tokens", "ppt_tokens",
    "params", "vocab_size", "source", "description", "flops", "tokens_per_second", "loader_share", "spikes",
    "nonfinite", "skipped", "precision", "swap", "parent", "checkpoint_sha256",
]  # fmt: skip
METRICS = [
    *CHECKPOINT,
    "loss", "val_loss", "val_bpb", "grad_norm", "grad_norm_embed", "grad_norm_attn", "grad_norm_mlp",
    "grad_norm_norm", "lr", "tokens_per_second", "loader_share", "event", "skipped",
]  # fmt: skip
COMPLEXITY = [
    "source", "label", "kind", "regime", "domain", "n_states", "band_low", "band_high", "measure", "value",
    "unit", "n", "sd",
]  # fmt: skip
NOTES = ["source", "description", "note"]
REASONING = ["run", "regime", "domain", "seed", "n_train", "n_test", "correct", "accuracy", "low", "high"]


COMPLEXITY_TABLE = "complexity"


class _Awaiting(dict[str, pd.DataFrame]):
    """Tables by name; that of complexity, which another process makes, is waited for when it is first asked for."""

    def __init__(self, complexity: Callable[[], pd.DataFrame]) -> None:
        super().__init__()
        self._complexity = complexity

    def __missing__(self, name: str) -> pd.DataFrame:
        if name != COMPLEXITY_TABLE:
            raise KeyError(name)
        self[name] = self._complexity()
        return self[name]


def build_tables(
    folder: Path,
    probes_folder: Path | None = None,
    say: Callable[[str], None] = lambda what: None,
    *,
    alone: bool = True,
) -> dict[str, pd.DataFrame]:
    """Write every table of a study, or of a collection of checkpoints, into its tables/ folder and return them; one that is half
    done gives what it has. `say(what is being done)` is called at each step. `alone` False: a second process takes part.

    Raises UserError where the folder holds neither or a file in it is damaged.
    """
    collection = Collection.open(folder)
    _check_kept(collection)
    known = _in_order(measurements())
    asked = Asked(collection, None, probes_folder)
    alone = alone or collection.study is None
    with nullcontext() if alone else beside(complexity_table, folder) as complexity:
        say("tables of training")
        tables = _Awaiting(complexity or partial(complexity_table, folder))
        tables |= _of_study(collection, collection.study) if collection.study is not None else _of_elsewhere(collection)
        for one in known:
            if one.tables is not None:
                say(f"tables of {one.name}")
                tables |= resolve(one.tables)(collection, tables, asked)
        if collection.study is not None:
            tables["published"] = _published(collection, collection.study, tables)
            say("complexity of the sources")
            assert tables[COMPLEXITY_TABLE] is not None
            tables["claims"] = claims_table(collection.study, tables)
    for name in {name for one in known for name in one.columns} - set(tables):
        collection.dir.table(name).unlink(missing_ok=True)
    if not (collection.dir.tables / MANIFEST).is_file():  # until the end, whatever is there is not whole
        write_record(collection.dir.tables / MANIFEST, {})
    say("writing the tables")
    with nullcontext() if alone else beside(write_files, folder, dict(tables), probes_folder) as written:
        for name, frame in tables.items():
            write_table(collection.dir.table(name), frame)
        _write_trajectory(collection)
        say("files beside the tables")
        written() if written is not None else write_files(folder, tables, probes_folder)
    seal(collection.dir.tables)
    return tables


def write_files(folder: Path, tables: dict[str, pd.DataFrame], probes_folder: Path | None) -> None:
    """What measurements write beside their tables."""
    collection = Collection.open(folder)
    for one in measurements().values():
        if one.files is not None:
            resolve(one.files)(collection, tables, Asked(collection, None, probes_folder))


def _check_kept(collection: Collection) -> None:
    """UserError where a measurement that was kept is damaged: a row less in a table would not be noticed."""
    kept = [path for run in collection.runs for name in measurements() for path in tables_in(run.folder / name)]
    for path in [*tables_in(collection.dir.nulls), *kept]:
        if problem := lost(path):
            asked = f" --{path.parent.name}" if path.parent.name in measurements() else ""
            again = f"{collection.dir.analyze()}{asked}"
            raise UserError(f"{problem}; delete {path.name} and the .json beside it, and measure again: {again}")


def read_tables(collection: Collection) -> dict[str, pd.DataFrame]:
    """The tables that stand in the folder, cells typed as pandas sees them."""
    return {path.stem: pd.read_csv(path) for path in sorted(collection.dir.tables.glob("*.csv"))}


def _in_order(known: dict[str, Measurement]) -> list[Measurement]:
    """Measurements, each after those whose tables it needs."""
    order: dict[str, Measurement] = {}

    def take(one: Measurement) -> None:
        for name in one.needs:
            if name not in order:
                take(known[name])
        order.setdefault(one.name, one)

    for one in known.values():
        take(one)
    return list(order.values())


def _of_study(collection: Collection, study: Study) -> dict[str, pd.DataFrame]:
    """What training itself left: runs, their metrics, contrasts, speed-up, accuracies, what they read."""
    runs, by_id, roles = list(collection.runs), collection.by_id, collection.roles
    directory = StudyDir(collection.folder)
    losses, plan = final_losses(directory, runs, study), declared(directory, study)
    best = scratches(losses, study)
    tables = {
        "start": start_table(runs),
        "scratches": best,
        "runs": pd.DataFrame([_run_row(run, by_id) for run in runs], columns=RUNS),
        "metrics": pd.DataFrame([{**run.identity, **row} for run in runs for row in run.rows], columns=METRICS),
        "reasoning": _reasoning(runs),
        "notes": _notes(runs),
    }
    reasoning = accuracies(runs, study, tables["reasoning"])
    tables |= contrast_tables(roles, collection.domains, with_best(losses, best), reasoning, plan.contrasts, plan.added)
    tables |= transfer_tables(study, losses, tables["contrasts"])
    compared = {name for name, role in roles.items() if role in ("regime", "control")}
    tables |= {"plan": plan.table, **speedup_tables(_curves(runs, by_id, compared), collection.domains)}
    return tables


def _published(collection: Collection, study: Study, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    runs = list(collection.runs)
    final = final_losses(StudyDir(collection.folder), runs, study).rows
    return published_table({**tables, "final": final}, collection.domains, _setting(runs, study))


def _of_elsewhere(collection: Collection) -> dict[str, pd.DataFrame]:
    """The tables that every report needs, of checkpoints that others trained: who they are, and no metrics of training."""
    rows = [{**run.identity, "label": run.label, "role": run.role, **described(run)} for run in collection.runs]
    return {"runs": pd.DataFrame(rows, columns=RUNS), "metrics": pd.DataFrame(columns=METRICS)}


def _run_row(run: Run, by_id: dict[str, Run]) -> dict[str, Any]:
    config, trained, ppt = run.config, run.trained, ppt_of(run, by_id)
    assert config is not None
    assert trained is not None
    events = Counter(row.get("event") for row in trained.rows)
    return {
        **run.identity,
        "label": config.label,
        "role": config.role,
        "state": trained.status["state"],
        "steps": config.config.steps,
        "tokens": run.tokens,
        "ppt_tokens": ppt.tokens if ppt else 0,
        "params": config.model.n_params(run.vocab_rows),
        "vocab_size": trained.meta.vocab_size,
        "source": Path(config.tokens).name,
        "description": trained.meta.description,
        "flops": run.flops,
        "tokens_per_second": _median(run, "tokens_per_second"),
        "loader_share": _median(run, "loader_share"),
        "spikes": events["spike"],
        "nonfinite": events["nonfinite"],
        "skipped": sum(bool(row.get("skipped")) for row in trained.rows),
        "precision": config.precision,
        "swap": policy_of(run),
        "parent": config.checkpoint or config.parent or "",
        "checkpoint_sha256": weights_hash(run),
    }


def _median(run: Run, column: str) -> float | None:
    values = [row[column] for row in run.rows if row.get(column) is not None]
    return float(np.median(values)) if values else None


def _reasoning(runs: list[Run]) -> pd.DataFrame:
    rows = []
    for run in runs:
        if run.stage != "ft" or not run.done or run.trained is None:
            continue
        result = read_object(run.trained.dir.result, run.trained.dir.anew(), n=int, correct=int)
        if not result["n"]:
            continue
        share = wilson(result["correct"], result["n"])
        identity = {k: v for k, v in run.identity.items() if k != "stage"}
        rows.append({
            **identity, "n_train": run.trained.meta.n_train, "n_test": result["n"], "correct": result["correct"],
            "accuracy": share.value, "low": share.low, "high": share.high,
        })  # fmt: skip
    return pd.DataFrame(rows, columns=REASONING)


def _notes(runs: list[Run]) -> pd.DataFrame:
    """What the tokens of the runs lack of what was asked for."""
    sources = {Path(run.config.tokens).name: run.trained.meta for run in runs if run.config and run.trained}
    rows = [(name, meta.description, note) for name, meta in sources.items() for note in notes(meta)]
    return pd.DataFrame(rows, columns=NOTES)


def _curves(runs: list[Run], by_id: dict[str, Run], regimes: set[str]) -> dict[tuple[str, str, int], Curve]:
    curves = {}
    for run in runs:
        c, losses = run.config, validations(run)
        if run.stage != "pt" or not run.done or not losses or run.regime not in regimes:
            continue
        assert c is not None
        assert run.trained is not None
        ppt = ppt_of(run, by_id)
        tokens, values = (np.array(column, dtype=float) for column in zip(*losses, strict=True))
        if not np.isfinite(values).all():
            continue
        curves[run.domain, run.regime, c.seed] = Curve(
            tokens, values, run.flops_per_token, ppt.tokens if ppt else 0.0, ppt.flops if ppt else 0.0
        )
    return curves


def complexity_table(folder: Path) -> pd.DataFrame:
    """Measures of every token directory that a stage before fine-tuning trains on, a row for each regime or domain that uses it."""
    collection = Collection.open(folder)
    assert collection.study is not None
    study = collection.study
    uses: dict[str, dict[tuple[str, str], str]] = {}
    for run in collection.runs:
        c = run.config
        assert c is not None
        if c.stage == "ppt":
            # a pre-pre-training is named after the first regime of its source; transfer arms share it
            uses.setdefault(c.tokens, {})[c.regime, ""] = c.label
        elif c.stage == "pt" and c.domain is not None:
            uses.setdefault(c.tokens, {})["", c.domain] = (
                study.domain(c.domain).label if c.domain in {d.name for d in study.domains} else c.domain
            )
    rows = []
    for path, users in sorted(uses.items()):
        file = TokenFile.open(collection.folder / path)
        spec = file.meta.spec
        band = spec.get("band") or (None, None)
        found = summaries(of_tokens(file, "val", 128), of_tokens(file, "train", max(1, 2**19 // file.meta.seq_len)))
        for (regime, domain), label in users.items():
            base = {
                "source": Path(path).name, "label": label, "kind": spec["kind"], "regime": regime, "domain": domain,
                "n_states": spec.get("n_states"), "band_low": band[0], "band_high": band[1],
            }  # fmt: skip
            rows += [{**base, **m._asdict()} for m in found]
    return pd.DataFrame(rows, columns=COMPLEXITY)


def _setting(runs: list[Run], study: Study) -> str:
    """Our model and budget in words."""
    pt = [run for run in runs if run.stage == "pt"]
    if not pt:
        return "no pre-training run"
    ppt = [run.tokens for run in runs if run.stage == "ppt"]
    params = max(run.config.model.n_params(run.trained.meta.vocab_size) for run in pt if run.config and run.trained)
    return (
        f"{params / 1e6:.2g} M parameters, {max(ppt, default=0) / 1e6:.2g} M tokens of pre-pre-training, "
        f"{max(run.tokens for run in pt) / 1e6:.2g} M tokens of language, {len(study.seeds)} seed(s)"
    )


def _write_trajectory(collection: Collection) -> None:
    """trajectory.json: a moving example of the synthetic data, where there is some."""
    path, source = collection.dir.tables / "trajectory.json", None
    if collection.study is not None:
        first = primary(collection.roles)
        ppt = [run for run in collection.runs if run.stage == "ppt"]
        source = next((r for r in ppt if r.regime == first), None)
        source = source or next((r for r in ppt if r.source.get("kind") == "nca"), None)
    shown = None
    if source is not None and source.config is not None:
        shown = export_trajectory(collection.folder / source.config.tokens, source.label)
    if shown is not None:
        write_json(path, shown)
    else:
        path.unlink(missing_ok=True)
