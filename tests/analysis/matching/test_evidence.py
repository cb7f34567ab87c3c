"""What a recommendation rests on: planted studies in which the matching hypothesis holds, fails, or cannot be told."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from nca_interp.analysis.matching import evidence
from nca_interp.analysis.matching.evidence import (
    MEASURE,
    PIECE,
    found_evidence,
    judge,
    own_evidence,
    paper_rule,
    permuted,
    study_evidence,
)
from nca_interp.base import UserError
from nca_interp.store import write_json

ARMS = {"nca": 0.2, "low": 0.4, "mid": 0.6, "high": 0.9, "top": 1.0}
DOMAIN = 0.55


def tables(slope, noise=0.0, seeds=4, arms=ARMS, domains=("web",)):
    """A study whose losses against scratch grow with the distance from the domain by `slope`."""
    rng = np.random.default_rng(0)
    pairs, contrasts = [], []
    for domain in domains:
        for arm, x in arms.items():
            values = slope * abs(x - DOMAIN) + noise * rng.standard_normal(seeds)
            shared = {
                "family": "complexity",
                "domain": domain,
                "metric": "val_loss",
                "treated": arm,
                "control": "scratch",
            }
            pairs += [{**shared, "seed": s, "difference": v} for s, v in enumerate(values)]
            contrasts.append(
                {
                    **shared,
                    "n": seeds,
                    "effect": values.mean(),
                    "low": np.nan,
                    "high": np.nan,
                    "verdict": "inconclusive",
                }
            )
    complexity = [{"measure": MEASURE, "regime": a, "domain": np.nan, "value": x} for a, x in arms.items()]
    complexity += [{"measure": MEASURE, "regime": np.nan, "domain": d, "value": DOMAIN} for d in domains]
    return pd.DataFrame(contrasts), pd.DataFrame(pairs), pd.DataFrame(complexity)


@pytest.mark.parametrize(("slope", "expected"), [(0.5, "yes"), (-0.5, "no")])
def test_planted_relations_are_found(slope, expected):
    found = judge("planted", *tables(slope, noise=0.01))
    assert found.supports == expected
    assert "4 seeds" in found.sentence


def test_noise_is_inconclusive():
    assert judge("noise", *tables(0.0, noise=1.0)).supports == "inconclusive"


def test_domains_that_disagree_are_inconclusive():
    a, b = tables(0.5, noise=0.01), tables(-0.5, noise=0.01, domains=("code",))
    both = [pd.concat([x, y]) for x, y in zip(a, b, strict=True)]
    assert judge("two", *both).supports == "inconclusive"


def test_too_few_arms_are_said_and_seeds_do_not_stand_for_them():
    few = dict(list(ARMS.items())[:4])
    found = judge("few", *tables(0.5, arms=few, seeds=8))
    assert found.supports == "inconclusive"
    assert "4 arms and 8 seeds that have them all" in found.sentence
    one = judge("one seed", *tables(0.5, seeds=1))
    assert (one.supports, "5 arms and 1 seeds" in one.sentence) == ("inconclusive", True)
    alike = judge("alike", *tables(0.5, arms=dict.fromkeys(ARMS, 0.3)))
    assert (alike.supports, "equally far" in alike.sentence) == ("inconclusive", True)


def test_p_is_that_of_all_orders_of_the_arms():
    distance, losses = (
        np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
        np.array([[1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 5.0, 4.0]]),
    )
    rho, p = permuted(distance, losses)
    assert rho == pytest.approx((1 + 0.9) / 2)
    orders = np.array(list(itertools.permutations(range(5)))) + 1
    means = [np.mean([stats.spearmanr(order, row).statistic for row in losses]) for order in orders]
    assert p == pytest.approx(np.mean(np.abs(means) >= rho - 1e-9))
    assert np.isnan(permuted(distance, np.ones((2, 5)))).all()
    assert permuted(np.arange(12.0), np.arange(12.0)[None])[1] == 1 / 40_000


@pytest.mark.parametrize("arms", [5, 7])
def test_arms_that_differ_for_other_reasons_rarely_support_anything(arms):
    """Every arm has a transfer of its own that has nothing to do with its distance; seeds agree on it."""
    rng, said = np.random.default_rng(arms), []
    for _ in range(400):
        losses = rng.normal(size=arms) + 0.1 * rng.normal(size=(5, arms))
        said.append(permuted(rng.random(arms), losses)[1] < 0.05)
    assert np.mean(said) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 400)


def test_a_study_folder_is_read_from_its_tables(tmp_path):
    write_json(tmp_path / "study.json", {"study": {}, "provenance": {}})
    for name, frame in zip(("contrasts", "pairs", "complexity"), tables(0.5, noise=0.01), strict=True):
        (tmp_path / "tables").mkdir(exist_ok=True)
        frame.to_csv(tmp_path / "tables" / f"{name}.csv", index=False)
    found = study_evidence(tmp_path)
    assert found.supports == "yes"
    assert len(found.comparisons) == len(ARMS)
    (tmp_path / "tables" / "pairs.csv").unlink()
    with pytest.raises(UserError, match=r"pairs\.csv: no such table; run: nca-interp analyze"):
        study_evidence(tmp_path)


def sweep_study(folder, verdict, arms=12, p=0.001):
    """A study whose sweep came to this verdict on matching."""
    rows = [
        {"family": family, "hypothesis": name, "arms": arms, "p": p, "verdict": said, "sentence": f"Said of {name} in {folder.name}."}
        for family, name, said in (
            ("declared", "matching", verdict),
            ("declared", "more entropy is better", "inconclusive"),
            ("exploration", "matching", ""),
        )
    ]  # fmt: skip
    (folder / "tables").mkdir(parents=True)
    write_json(folder / "study.json", {"study": {}, "provenance": {}})
    pd.DataFrame(rows).to_csv(folder / "tables" / "sweep_tests.csv", index=False)


@pytest.mark.parametrize(
    ("verdict", "supports"),
    [("supported", "yes"), ("contradicted", "no"), ("cannot tell", "inconclusive"), ("inconclusive", "inconclusive")],
)
def test_the_sweep_of_a_study_is_its_evidence(tmp_path, verdict, supports):
    sweep_study(tmp_path / "sweep", verdict)
    found = study_evidence(tmp_path / "sweep")
    assert found.supports == supports
    assert found.sentence == (
        "Sweep 'sweep': Said of matching in sweep. Its rivals there: more entropy is better: inconclusive."
    )
    assert [c["hypothesis"] for c in found.comparisons] == ["matching", "more entropy is better"]


def test_the_sweep_that_nobody_named_is_the_one_with_the_most_arms_that_could_be_tested(tmp_path):
    assert found_evidence(tmp_path) is None
    sweep_study(tmp_path / "untested", "cannot tell", arms=30, p=np.nan)
    assert found_evidence(tmp_path) is None
    sweep_study(tmp_path / "small", "supported", arms=6)
    sweep_study(tmp_path / "large", "contradicted", arms=16)
    (tmp_path / "half" / "tables").mkdir(parents=True)
    (tmp_path / "half" / "tables" / "sweep_tests.csv").write_text("family\n")
    found = found_evidence(tmp_path)
    assert (found.study, found.supports) == ("large", "no")


def test_a_study_without_arms_cannot_say_anything():
    contrasts, pairs, complexity = tables(0.5)
    with pytest.raises(UserError, match="no arm of another complexity"):
        judge("none", contrasts[contrasts.family == "regime"], pairs, complexity)


def test_a_record_is_evidence_where_arms_differ_in_complexity_and_else_none(tmp_path, monkeypatch):
    verdict = {
        "family": "complexity",
        "domain": "web",
        "metric": "val_loss",
        "treated": "nca-low",
        "control": "scratch",
        "n": 3,
    }
    (tmp_path / "reports").mkdir()
    monkeypatch.setattr(evidence, "builtin_folder", lambda kind: tmp_path / kind)
    assert own_evidence() is None
    for family, known in (("regime", False), ("complexity", True)):
        record = {"study": "mine", "verdicts": [{**verdict, "family": family, "verdict": "worse"}]}
        (tmp_path / "reports" / "demo.json").write_text(json.dumps(record))
        found = own_evidence()
        assert (found is not None) == known
    assert "1 worse" in found.sentence


def test_our_own_evidence_is_the_committed_record(root):
    from nca_interp.store import read_json

    found = own_evidence()
    record = read_json(root / "reports" / "demo.json")
    rows = [v for v in record["verdicts"] if v["family"] == "complexity"]
    assert len(found.comparisons if found else []) == len(rows)
    for verdict in {v["verdict"] for v in rows}:
        assert f"{sum(v['verdict'] == verdict for v in rows)} {verdict}" in found.sentence


def test_the_papers_rule_depends_on_the_length_that_it_does_not_state():
    rng = np.random.default_rng(0)
    words = [bytes(rng.integers(97, 123, 6).astype(np.uint8)) for _ in range(200)]
    text = b" ".join(words[i] for i in rng.integers(0, 200, 20_000))
    found = paper_rule(text)
    assert found.pieces > found.whole + 0.1
    assert "the band" in found.sentence
    assert paper_rule(b"x" * (PIECE - 1)) is None
    assert "below 0.2" in paper_rule(b"x" * 10 * PIECE).sentence
