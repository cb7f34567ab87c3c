"""Parts of the causes: kept one by one, selected by options, estimated first; a large model is ranked and then checked."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from nca_interp.analysis.causes import options as options_module
from nca_interp.analysis.causes import stages
from nca_interp.analysis.causes.causes import causes
from nca_interp.analysis.causes.measurement import MEASUREMENT
from nca_interp.analysis.causes.options import METRICS, STAGES, CausesOptions, Scope
from nca_interp.analysis.causes.parts import Kept, Part
from nca_interp.overrides import parse
from tests.analysis.models import planted_gpt2

LOSS, GAIN = METRICS["repeated_tokens"]
SCORES = {
    "previous_token": {(0, 0): 0.9, (0, 1): 0.1, (1, 0): 0.0, (1, 1): 0.0},
    "induction": {(0, 0): 0.0, (0, 1): 0.1, (1, 0): 0.9, (1, 1): 0.2},
}


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Path:
    return planted_gpt2(tmp_path_factory.mktemp("planted"))


@pytest.fixture(scope="module")
def whole(planted) -> pd.DataFrame:
    return causes(planted, scores=SCORES, metric=(LOSS, GAIN))


def test_interrupted_and_continued_is_as_never_interrupted(planted, whole, tmp_path):
    said: list[tuple[str, float]] = []

    def stopping(what: str, share: float) -> None:
        if what.startswith("patching"):
            raise KeyboardInterrupt
        said.append((what, share))

    asked = {"scores": SCORES, "metric": (LOSS, GAIN), "parts": tmp_path, "made_from": {"weights": "a"}}
    with pytest.raises(KeyboardInterrupt):
        causes(planted, say=stopping, **asked)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.csv")}
    assert {"ablation.repeated_tokens.csv", "knock_outs.repeated_tokens.csv"} <= set(kept)
    assert not any(name.startswith(("patching", "weights")) for name in kept)
    again: list[tuple[str, float]] = []
    found = causes(planted, say=lambda *told: again.append(told), **asked)
    pd.testing.assert_frame_equal(found, whole, check_exact=True)
    assert kept.items() <= {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.csv")}.items()
    assert not any("ablated" in what for what, _ in again)
    assert any("parts" in what for what, _ in said)
    shares = [share for _, share in said]
    assert shares == sorted(shares)
    other = causes(planted, say=lambda *told: again.append(told), **{**asked, "made_from": {"weights": "b"}})
    pd.testing.assert_frame_equal(other, whole, check_exact=True)
    assert any("ablated" in what for what, _ in again)  # of other weights nothing is taken


@pytest.mark.parametrize("stage", STAGES)
def test_one_stage_gives_its_rows_alone(planted, stage):
    probes = {
        "attribution": {"attribution"}, "ablation": {"ablation"}, "knock_outs": {"knock_out"},
        "top_heads": {"top_heads", "random_heads"}, "logit_lens": {"logit_lens"}, "patching": {"patching"}, "edges": {"edge"},
        "weights": {"ov_copying", "qk_matching", "q_composition", "k_composition", "v_composition"},
    }  # fmt: skip
    found = causes(planted, scores=SCORES, stages=(stage,), metric=(LOSS,))
    assert set(found["probe"]) == probes[stage]
    assert set(found["metric"]) <= {LOSS, "nll", "kl", "agreement", "entropy", ""}


def test_options_select_metrics_heads_probes_and_sequences(planted, whole):
    found = causes(
        planted, scores=SCORES, stages=("ablation", "top_heads"), metric=(GAIN,), heads=("L1H0",), probes=("induction",),
        sequences=4, sets=1,
    )  # fmt: skip
    ablated = found[found["probe"] == "ablation"]
    assert ablated[["metric", "layer", "head", "n"]].to_numpy().tolist() == [[GAIN, 1, 0, 4]]
    assert list(found[found["probe"] == "top_heads"]["by"]) == ["induction"]
    exact = whole[
        (whole["probe"] == "ablation") & (whole["metric"] == GAIN) & (whole["layer"] == 1) & (whole["head"] == 0)
    ]
    assert ablated["value"].iloc[0] == pytest.approx(exact["value"].iloc[0], rel=0.2)  # of fewer sequences


def test_heads_of_a_large_model_are_ranked_by_attribution_and_checked(planted, monkeypatch):
    for module in (options_module, stages):
        if hasattr(module, "EXACT_UP_TO"):
            monkeypatch.setattr(module, "EXACT_UP_TO", 3)
    monkeypatch.setattr(stages, "checked_heads", lambda rows, metric, n: ([(0, 0), (1, 0)], [(0, 1)]))
    found = causes(planted, scores=SCORES, stages=("attribution", "ablation"))
    assert set(found["metric"]) == {LOSS, GAIN}  # there is no natural text, and NCA is left out of a large model
    heads = found[(found["probe"] == "ablation") & (found["metric"] == LOSS)]
    assert heads[["layer", "head"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0]]
    assert set(heads["n"]) == {16}
    assert len(found[(found["probe"] == "attribution") & (found["metric"] == LOSS)]) == 4


def test_scope_of_small_and_large_models():
    small, large = (Scope(CausesOptions(), n) for n in (16, 270))
    assert (small.every, small.sets, small.sequences(64), small.has("attribution")) == (True, 50, None, False)
    assert (large.every, large.sets, large.sequences(128), large.sequences(512)) == (False, 8, 8, 4)
    assert large.has("attribution")
    assert large.stimuli("ablation") == ("repeated_tokens", "natural")
    assert large.stimuli("top_heads") == ("repeated_tokens",)
    chosen = Scope(CausesOptions(metric=("own_loss",), heads="all"), 270)
    assert (chosen.stimuli("top_heads"), chosen.every) == (("natural",), True)


def test_options_are_words_with_commas_on_the_command_line():
    read = parse(CausesOptions, {"stages": "ablation, weights", "metric": LOSS, "heads": "L10H7,L2H3"})
    assert (read.stages, read.metric, read.named) == (("ablation", "weights"), (LOSS,), [(10, 7), (2, 3)])
    assert MEASUREMENT.read({"checked": 3}).checked == 3


def test_a_part_that_fails_is_not_kept(tmp_path):
    def fails(tell):
        raise RuntimeError

    kept = Kept(tmp_path, {}, lambda what, share: None)
    part = Part("ablation.x", "x", 1.0, {}, fails)
    with pytest.raises(RuntimeError):
        kept.rows(part)
    assert list(tmp_path.iterdir()) == []
    rows = [{"probe": "ablation", "value": 1 / 3, "layer": 0, "unit": "nats"}]
    assert kept.rows(part._replace(make=lambda tell: rows)) == rows
    assert Kept(tmp_path, {}, lambda what, share: None).rows(part) == rows  # read, not made
    assert Kept(tmp_path, {}, lambda what, share: None).expect([part, part._replace(name="other")]) == 1.0
