"""Tables of planted answers, by hand; verdicts of planted effects; what other tools read."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pandas as pd
import pytest

from nca_interp.analysis.collection.run import Run
from nca_interp.analysis.reasoning import tables as made
from nca_interp.analysis.reasoning.tables import EVALUATIONS, beside_published, of_checkpoint
from nca_interp.analysis.reasoning.verdicts import contrasts, over_seeds
from nca_interp.evaluate.run import Scored


def frame(rows: list[tuple], k: list[int], samples: int) -> pd.DataFrame:
    """`rows`: task, part, kind, answered, correct, chance."""
    scored = [Scored(t, p, kind, i, n, c, chance, "paper") for i, (t, p, kind, n, c, chance) in enumerate(rows)]
    found = pd.DataFrame(scored, columns=Scored._fields)
    found.attrs = {"notes": [], "foreign": [], "k": k, "samples": samples}
    return found


def table(run: Run, made_of: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame([{**r, "final": 1} for r in of_checkpoint(run, 0, made_of)], columns=EVALUATIONS)


def test_values_normalised_and_means_by_hand():
    rows = [
        ("bbl", "a", "generate", 4, 4, 0.5), ("bbl", "a", "generate", 4, 0, 0.5), ("bbl", "b", "generate", 4, 1, 0.0),
        ("bbl", "b", "generate", 0, 0, 0.0), ("bbl", "c", "generate", 4, 0, 0.25),
    ]  # fmt: skip
    found = table(Run("r", None), frame(rows, [1, 2], 4)).set_index(["part", "k"])
    assert found.loc[("a", 1), "value"] == 0.5
    assert found.loc[("a", 1), "normalised"] == 0.0
    assert found.loc[("b", 1), "value"] == 0.25
    assert found.loc[("b", 2), "value"] == pytest.approx(1 - 3 / 6)
    assert (found.loc[("b", 1), "problems"], found.loc[("b", 1), "skipped"]) == (1, 1)
    assert found.loc[("", 1), "value"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert found.loc[("", 1), "normalised"] == pytest.approx((0 + 0.25 + 0) / 3), "below chance counts as 0 here"
    assert found.loc[("c", 1), "normalised"] == pytest.approx(-1 / 3)
    assert found.loc[("", 1), "skipped"] == 1


def test_a_part_of_which_all_is_skipped_leaves_no_mean():
    rows = [("bbl", "a", "generate", 1, 1, 0.5), ("bbl", "b", "generate", 0, 0, 0.5)]
    found = table(Run("r", None), frame(rows, [1], 1)).set_index("part")
    assert math.isnan(found.loc["", "value"])
    assert math.isnan(found.loc["b", "value"])
    assert found.loc["a", "value"] == 1.0


def test_choices_have_one_answer_and_wilson_intervals():
    rows = [("pairs", "", "choose", 1, int(i < 8), 0.5) for i in range(10)]
    found = table(Run("r", None), frame(rows, [1, 4], 16))
    assert list(found.k) == [1]
    assert list(found.samples) == [1]
    row = found.iloc[0]
    assert (row.low, row.high) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert row.normalised == pytest.approx(0.6)


def planted(effect: int, seeds: int = 5, problems: int = 200):
    """Two regimes; `mine` has `effect` problems more right, the same ones for every seed."""
    runs, ends, rows = [], {}, []
    for seed in range(seeds):
        for regime in ("scratch", "mine"):
            run = Run(f"{regime}{seed}", None, regime=regime, seed=seed, stage="pt", domain="web")
            right = 60 + seed % 2 + effect * (regime == "mine")
            ends[run.id] = frame([("gsm8k", "", "generate", 1, int(i < right), 0.0) for i in range(problems)], [1], 1)
            rows += [table(run, ends[run.id])]
            runs.append(run)
    collection = SimpleNamespace(runs=runs, roles={"scratch": "regime", "mine": "regime"}, domains={"web": "web text"})
    return collection, pd.concat(rows, ignore_index=True), ends


def test_a_planted_effect_is_found_and_none_is_not():
    row = contrasts(*planted(60)).iloc[0]
    assert (row.treated, row.control, row.n, row.task, row.domain) == ("mine", "scratch", 5, "gsm8k", "web")
    assert row.effect == pytest.approx(0.3)
    assert row.low < 0.3 < row.high
    assert row.verdict == "better (exploratory)"
    assert "No plan was fixed" in row.sentence
    none = contrasts(*planted(0)).iloc[0]
    assert not none.verdict.startswith(("better", "worse"))


def test_no_spread_over_seeds_is_no_certainty():
    found = over_seeds(*planted(0, problems=100)).set_index("regime")
    row = found.loc["mine"]
    assert row.value == pytest.approx(0.604)
    assert row.high - row.low > 0.15, "100 problems leave an error of their own"
    assert row.seeds == 5


def test_one_seed_has_the_interval_of_its_problems():
    collection, rows, ends = planted(0, seeds=1)
    found = over_seeds(collection, rows, ends).set_index("regime").loc["mine"]
    single = rows[(rows.run == "mine0")].iloc[0]
    assert (found.value, found.low, found.high) == (single.value, single.low, single.high)


def test_published_numbers_stand_beside_ours():
    collection, rows, ends = planted(0)
    rows["regime"] = rows.regime.replace("mine", "nca")
    regimes = over_seeds(collection, rows, ends)
    found = beside_published(rows, regimes).set_index("regime")
    assert found.loc["nca", "published"] == 4.36
    assert found.loc["nca", "ours"] == pytest.approx(100 * regimes.set_index("regime").loc["nca", "value"])
    assert math.isnan(found.loc["dyck", "ours"])
    assert set(found.task) == {"gsm8k"}, "what was not asked is not listed"


def test_other_tools_read_results_samples_and_card(tmp_path):
    pytest.importorskip("lm_eval", reason="needs the extra [eval] (lm-evaluation-harness)")
    from huggingface_hub import ModelCard

    from nca_interp.evaluate.cards import write_card, write_results
    from nca_interp.evaluate.task import SKIPPED

    rows = frame(
        [
            ("gsm8k", "", "generate", 2, 1, 0.0),
            ("gsm8k", "", "generate", 2, 2, 0.0),
            ("gsm8k", "", "generate", 0, 0, 0.0),
        ],
        [1, 2],
        2,
    )
    write_card(tmp_path, "model", rows, [1, 2])
    card = ModelCard.load(tmp_path / "README.md")
    assert [(e.dataset_name, e.metric_type, e.metric_value) for e in card.data.eval_results] == [
        ("gsm8k", "accuracy", 0.75),
        ("gsm8k", "pass@2", 1.0),
    ]
    sample = {
        "doc_id": 0, "doc": {"prompt": "p"}, "target": 1, "arguments": [("p", {"until": ["x"]})], "resps": [["a", SKIPPED]],
        "filtered_resps": [["a", SKIPPED]], "filter": "none", "acc": math.nan,
    }  # fmt: skip
    results = {"results": {"gsm8k": {"alias": "gsm8k", "acc,none": math.nan}}, "samples": {"gsm8k": [sample]}}
    write_results(tmp_path, results)
    read = json.loads((tmp_path / "results.json").read_text())
    assert read["results"]["gsm8k"]["acc,none"] is None, "JSON has no NaN"
    line = json.loads((tmp_path / "samples_gsm8k.jsonl").read_text())
    assert line["arguments"] == {"gen_args_0": {"arg_0": "p", "arg_1": {"until": ["x"]}}}
    assert line["resps"] == [["a", ""]]
    assert made.PUBLISHED.is_file()
