"""The first answers of a report: what they say follows from the tables, whatever those hold."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from nca_interp.report.columns import COLUMNS
from nca_interp.report.page import Answer
from nca_interp.report.sections.answers import answers

CONTRAST = {"family": "regime", "domain": "web", "metric": "val_loss", "treated": "nca", "control": "scratch", "primary": True, "n": 3.0, "effect": -0.05, "low": -0.08, "high": -0.02, "verdict": "better"}  # fmt: skip
CLAIM = {
    "claim": "c",
    "says": "it does",
    "domain": "web",
    "verdict": "inconclusive",
    "effect": 0.1,
    "judged": "first",
    "change": "About 5 seeds.",
}
FATE = {
    "regime": "nca",
    "domain": "web",
    "layer": 1.0,
    "head": 2.0,
    "start": 0.9,
    "level": 0.3,
    "end": 0.1,
    "fate": "lost",
}
STEP = {"regime": "nca", "stage": "pt", "step": 8.0, "layer": 1.0, "head": 2.0, "value": 0.2, "low": 0.1, "high": 0.3}
SET = {"regime": "nca", "stage": "pt", "family": "declared", "probe": "induction", "metric": "repeated_token_loss", "effect": 0.2, "verdict": "load-bearing"}  # fmt: skip


def _tables(**given: list[dict[str, Any]]) -> Any:
    names = ("contrasts", "claims", "fates", "top_sets", "step_effects", "probes")
    columns = {name: [w.partition(":")[0].rstrip("?") for w in COLUMNS.get(name, "").split()] for name in names}
    columns |= {
        "fates": [*FATE, "seed", "probe"],
        "top_sets": list(SET),
        "step_effects": list(STEP),
        "probes": ["probe"],
    }
    frames = {name: pd.DataFrame(given.get(name, []), columns=columns[name]) for name in names}
    frames["claims"] = frames["claims"].fillna({"judged": "", "change": "", "says": ""})
    frames["contrasts"]["primary"] = frames["contrasts"]["primary"].astype(bool)
    return SimpleNamespace(
        **frames, reference="nca", n_seeds=3, label=lambda r: {"nca": "NCA"}.get(r, r), domain_label=lambda d: f"the {d}",
        has=lambda name: not frames[name].empty,
    )  # fmt: skip


def _three(**given: list[dict[str, Any]]) -> tuple[Answer, Answer, Answer]:
    (box,) = answers(_tables(**given))
    first, second, third = box.entries
    return first, second, third


@pytest.mark.parametrize(
    ("row", "word", "says"),
    [
        ({}, "Yes, in this setting", "NCA ends 0.050 nats a token below scratch, which is better, on the web; 95 % interval of the difference −0.080 to −0.020, 3 paired seeds."),
        ({"effect": 0.05, "low": 0.02, "high": 0.08, "verdict": "worse"}, "No, it hurts in this setting", "0.050 nats a token above scratch, which is worse, on the web"),
        ({"verdict": "equivalent"}, "No difference that matters", "below"),
        ({"verdict": "inconclusive", "high": 0.01}, "Not shown either way", "−0.080 to +0.010"),
        ({"verdict": "no verdict (one seed)", "low": None, "high": None, "n": 1.0}, "Cannot be told", "one seed: no interval, so no verdict"),
        ({"verdict": "inconclusive (interim)", "effect": None, "low": None, "high": None, "n": 0.0}, "Not finished yet", "No seed of nca and scratch has ended yet."),
    ],
    ids=["better", "worse", "equivalent", "open", "one seed", "not begun"],
)  # fmt: skip
def test_whether_it_helps_is_the_primary_comparison(row, word, says):
    answer = _three(contrasts=[{**CONTRAST, "control": "c4", "primary": False}, {**CONTRAST, **row}])[0]
    assert answer.word == word
    assert says in answer.told[0]


def test_what_waits_and_what_is_judged_alone_is_said():
    claims = [
        {**CLAIM, "judged": "closed"},
        {**CLAIM, "claim": "d", "judged": "alone", "verdict": "supported"},
        {**CLAIM, "claim": "e", "judged": "alone"},
    ]
    told = " ".join(_three(contrasts=[CONTRAST], claims=claims)[0].told)
    assert "no comparison corrected with it gets a verdict" in told
    assert "1 claim below is judged alone at 5 %, of 2 so judged, and not corrected" in told
    assert "alone" not in " ".join(_three(contrasts=[CONTRAST], claims=[CLAIM])[0].told)


@pytest.mark.parametrize(
    ("given", "word", "says"),
    [
        ({}, "Not measured", "nca-interp analyze STUDY"),
        ({"probes": [{"probe": "x"}]}, "Whether they are needed was not measured", "--causes"),
        ({"probes": [{"probe": "x"}], "top_sets": [SET]}, "Needed", "load-bearing"),
        ({"probes": [{"probe": "x"}], "top_sets": [{**SET, "verdict": "not load-bearing"}]}, "Not shown to be needed", "not load-bearing"),
        ({"probes": [{"probe": "x"}], "step_effects": [STEP, {**STEP, "stage": "ppt", "head": 3.0, "value": 0.4}]}, "Whether they are needed is not decided", "losing each of 2 heads alone, the one that costs most is layer 1 head 3 at the end of pre-pre-training (+0.400 nats a token, +0.100 to +0.300) and layer 1 head 2 at the end of language"),
    ],
    ids=["no probe", "no ablation", "sets", "sets that carry nothing", "one by one"],
)  # fmt: skip
def test_which_heads_and_whether_they_are_needed(given, word, says):
    answer = _three(contrasts=[CONTRAST], **given)[1]
    assert answer.word == word
    assert says in " ".join(answer.told)


def test_the_heads_that_grew_are_those_of_the_task_and_their_end_is_told():
    fates = [{**FATE, "probe": p, "seed": s} for s in range(3) for p in ("copying", "nca_stencil")]
    told = " ".join(_three(contrasts=[CONTRAST], probes=[{"probe": "x"}], fates=fates)[1].told)
    assert "grows nca_stencil heads in 3 seeds of 3; the best: layer 1 head 2 (seed 0, 0.90)" in told
    assert "At the end of language 3 of these 3 heads are below the level again." in told


def test_what_to_run_names_seeds_and_commands():
    missing = [{**CLAIM, "claim": k, "says": k, "verdict": "not tested (not measured)", "effect": None, "judged": "", "change": "run this"} for k in ("x", "y")]  # fmt: skip
    told = _three(contrasts=[CONTRAST], claims=[CLAIM, *missing])[2].told
    assert told[0].startswith("For the primary comparison: about 5 seeds.")
    assert told[1] == "“x” and “y”: run this"


def test_a_study_of_nothing_has_no_answers():
    assert answers(_tables()) == []
