"""The section on a sweep: what is drawn, what is said of too few arms, of a corpus without a place, of arms that did not learn."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd
import pytest

from nca_interp.analysis.sweep.arms import SWEEP, distances
from nca_interp.analysis.sweep.tables import TESTS, weighed
from nca_interp.report.page import Figure, Note, Table, VerdictBox
from nca_interp.report.sections.sweep import section


class Fake:
    """What the section reads of `Tables`."""

    collection = None
    reference = "nca"

    def __init__(self, arms, pairs):
        self.sweep, self.pairs, self.domains = arms, pairs, {"web": "Web", "code": "Code"}
        self.sweep_tests = pd.DataFrame(list(weighed(arms, pairs)), columns=TESTS)

    def domain_label(self, name):
        return self.domains.get(name, name)


def study(n=8, follows="distance", learned=None, corpora=(0.8, 0.5), second=None, seeds=3):
    """A study whose gain follows a column of `sweep`."""
    rng = np.random.default_rng(0)
    x, rows, pairs = np.linspace(0.3, 1.0, n), [], []
    learned = learned or ["yes"] * n
    margin = rng.uniform(0, 0.3, n)
    for domain, corpus in zip(("web", "code"), corpora, strict=False):
        far = distances([{"g": v} for v in x], {"g": corpus})
        for i in range(n):
            told = {"distance": -0.05 * far[i], "complexity": 0.1 * x[i], "learnability": 0.3 * margin[i]}[follows]
            gains = told + 0.001 * rng.normal(size=seeds)
            counted = learned[i] == "yes" and not np.isnan(corpus)
            rows.append({
                **dict.fromkeys(SWEEP, np.nan), "domain": domain, "regime": f"nca-{i}", "label": f"NCA {i}", "n_states": 2, "dt": 1, "n": seeds,
                "gain": gains.mean(), "low": gains.min(), "high": gains.max(), "verdict": "better", "complexity": x[i], "second": "activity",
                "second_value": rng.uniform(), "corpus": corpus, "corpus_second": np.nan if second is None else second, "distance": far[i],
                "learnability": margin[i], "learned": learned[i], "learned_seeds": 3, "measured_seeds": 3, "accuracy": 0.6,
                "rival_accuracy": 0.5, "counted": counted, "why": "" if counted else "its models do not beat the mode",
            })  # fmt: skip
            pairs += [
                {"family": "complexity", "domain": domain, "metric": "val_loss", "treated": f"nca-{i}", "control": "scratch", "seed": s, "difference": -g, "counted": True}
                for s, g in enumerate(gains)
            ]  # fmt: skip
    return Fake(pd.DataFrame(rows, columns=SWEEP).astype({"counted": bool}), pd.DataFrame(pairs))


def items(fake):
    (found,) = section(fake)
    return found.items


def test_verdicts_map_and_distances_of_a_study_in_which_gain_falls_with_distance():
    box, chart, against, arms, exploration = items(study())
    assert isinstance(box, VerdictBox)
    said = {v.comparison: v.verdict for v in box.verdicts}
    assert said["matching"] == "supported"
    assert said["matching, between domains"] == "supported"
    assert {said["more entropy is better"], said["more entropy is worse"]} == {"inconclusive"}
    assert "p < 0.001" in box.verdicts[0].sentence
    assert "8 arms, 3 seeds, 2 domains" in box.verdicts[0].sentence
    assert isinstance(chart, Figure)
    assert isinstance(against, Figure)
    assert len(chart.charts) == len(against.charts) == 2
    for view in (*chart.charts, *against.charts):
        alt.Chart.from_dict(view.spec.to_dict(), validate=True)
    drawn = str(against.charts[0].spec.to_dict())
    assert drawn.count("'seed': 2") == 8, "a point a seed behind every mean"
    assert "A text has no activity" in chart.encoding
    assert isinstance(arms, Table)
    assert len(arms.rows) == 16
    assert isinstance(exploration, Table)


def test_more_entropy_is_better_is_told_from_matching():
    said = {v.comparison: v.verdict for v in items(study(n=12, follows="complexity"))[0].verdicts}
    assert said["more entropy is better"] == "supported"
    assert said["more entropy is worse"] == "contradicted"
    assert said["matching"] != "supported"


@pytest.mark.parametrize("n", [0, 1, 4])
def test_a_study_without_enough_arms_says_so(n):
    fake = study(n)
    (note,) = items(fake)
    assert isinstance(note, Note)
    assert "cannot say whether data must be as complex as the domain" in note.text
    assert "at least 5" in note.text


def test_arms_that_did_not_learn_are_shown_named_and_left_out():
    box, chart, _, arms, *_ = items(study(10, learned=["no"] * 6 + ["yes"] * 4))
    assert {v.verdict for v in box.verdicts} == {"cannot tell"}
    assert (
        "Left out, 6 of 10 arms: nca-0, nca-1, nca-2, nca-3, nca-4, nca-5 (models that do not beat"
        in box.verdicts[0].sentence
    )
    assert len(chart.data) == 20
    assert "Not in the verdict: nca-0" in arms.caption


def test_one_domain_and_a_corpus_that_cannot_be_measured_get_a_sentence():
    box, *_ = items(study(12, corpora=(0.7,)))
    assert "With web alone, a distance from its corpus is a preference for one complexity" in box.verdicts[0].sentence
    box, chart, against, *_ = items(study(12, corpora=(np.nan,)))
    assert "the corpus could not be measured" in chart.finding
    assert isinstance(against, Note)
    assert box.verdicts[0].verdict == "cannot tell"


def test_a_corpus_with_a_place_on_both_axes_is_marked_there():
    _, chart, *_ = items(study(second=0.4))
    assert "A diamond" in chart.encoding
    assert "diamond" in str(chart.charts[0].spec.to_dict())
