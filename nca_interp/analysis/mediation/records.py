"""What is kept of the rules of a study: which heads they mean in each pre-pre-training."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.analysis.collection.collection import Collection
from nca_interp.analysis.collection.run import Run, ppt_of
from nca_interp.analysis.mediation.rule import MEND, applies, rules_of
from nca_interp.analysis.mediation.sets import Head
from nca_interp.head_rule import HeadRule
from nca_interp.readers import read_object

HEAD_RULES = [
    "run", "regime", "seed", "rule", "probe", "words", "heads", "best", "level", "chance", "above", "below", "sets", "sentence",
]  # fmt: skip


def heads_of(collection: Collection, run: Run, rule: HeadRule) -> list[Head]:
    """The heads that a rule means in the pre-pre-training of a run; none where it found none or is not decided."""
    parent = ppt_of(run, collection.by_id)
    said = None if parent is None else record_of(collection, parent, rule)
    return [] if said is None else [(int(layer), int(head)) for layer, head in said["heads"]]


def record_of(collection: Collection, parent: Run, rule: HeadRule) -> dict[str, Any] | None:
    """The record of a rule beside a pre-pre-training; None where it is not decided. UserError where it is damaged."""
    path = collection.folder / rule.itself.file.replace("{parent}", parent.id)
    return read_object(path, MEND, heads=list, kinds=dict, sentence=str) if path.is_file() else None


def head_rules(collection: Collection) -> pd.DataFrame:
    """Table `head_rules` (HEAD_RULES), a row a rule, pre-pre-training and probe."""
    rows: list[dict[str, Any]] = []
    for run in collection.runs:
        if collection.study is None or not applies(run):
            continue
        for rule in rules_of(collection.study, run):
            said = record_of(collection, run, rule)
            for probe, kind in said["kinds"].items() if said is not None else ():
                assert said is not None
                own = kind["heads"] if said["heads"] else []  # of a rule of several kinds all are needed
                rows.append({
                    "run": run.id, "regime": run.regime, "seed": run.seed, "rule": rule.key, "probe": probe, "words": rule.words(),
                    "heads": " ".join(f"{layer}.{head}" for layer, head in own),
                    "best": max((value for *_, value in kind["scores"]), default=None), "level": kind["level"],
                    "chance": kind["chance"], "above": kind["above"], "below": len(kind["below"]), "sets": len(said["random"]),
                    "sentence": kind["sentence"],
                })  # fmt: skip
    return pd.DataFrame(rows, columns=HEAD_RULES)
