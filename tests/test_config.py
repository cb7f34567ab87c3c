"""Configuration: round trips, typed overrides, and messages that name field, value and what is legal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nca_interp import discover
from nca_interp.base import UserError, canonical_json, digest, stream_seed
from nca_interp.config import ModelConfig, StageConfig, Study
from nca_interp.data.specs import NcaSpec
from nca_interp.overrides import parse, with_overrides


@pytest.fixture(scope="module")
def study() -> Study:
    return discover.find("runs", "smoke").value()


@pytest.mark.parametrize("name", sorted(discover.load("runs")))
def test_every_recipe_is_valid_and_survives_json(name):
    found = discover.find("runs", name).value()
    assert parse(type(found), found.model_dump(mode="json")) == found


def test_override_by_name_and_type(study):
    changed = with_overrides(
        study, ["regimes.nca.source.n_states=3", "pt.lr=0.01", "title=hello world", "ppt.clip=null"]
    )
    assert changed.regime("nca").source.n_states == 3
    assert changed.pt.lr == 0.01
    assert changed.title == "hello world"
    assert changed.ppt.clip is None
    assert study.pt.lr != 0.01


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.n_layer=4", "unknown key 'n_layer'; did you mean 'n_layers'"),
        ("regimes.ncaa.label=x", "no item 'ncaa'; did you mean 'nca'"),
        ("pt.steps=many", "pt.steps: .*integer.*got 'many'"),
        ("pt.lr=-1", "pt.lr: .*greater than 0.*got -1"),
        ("model.n_heads=3", "n_heads: 3 does not divide d_model 32; legal: 1, 2, 4, 8, 16"),
        ("model.n_ctx=20", "holds less than two frames of 18"),
        ("regimes.nca.source.patch=3", "patch: 3 does not divide grid 8"),
        ("regimes.nca.source.n_states=99", "n_states: 99 states and patch 2 need a vocabulary of"),
        (
            "regimes.nca.source.kind=life",
            r"^regimes.nca.source.kind: 'life' is unknown; did you mean 'linear'\? \(legal: nca, dyck, text, copy",
        ),
        ("regimes.nca.source.kind=repaet", "^regimes.nca.source.kind: 'repaet' is unknown; did you mean 'repeat'"),
        ("regimes.nca.source.n_states=1", "^regimes.nca.source.n_states: .*greater than or equal to 2.*got 1"),
        (
            "regimes.nca.source=noise:dyck",
            r"^regimes.nca.source: 'noise:dyck' has no fields; legal: field by field \(regimes.nca.source.kind=",
        ),
        (
            "regimes.nca.swap.embed=match_rsm",
            r"^regimes.nca.swap.embed: .*; did you mean 'match_rms'\? \(got 'match_rsm'\)",
        ),
        ("regimes.scratch.swap.embed=match_rms", "^regimes.scratch.swap.embed: 'match_rms' needs a parent"),
        (
            "regimes.nca.swap.freeze_body=7",
            "^regimes.nca.swap.freeze_body: 7 steps are more than pre-training on web has; legal: 0 to 6",
        ),
        ("domains.web.source.source=site:poems", r"source: 'site:poems' is unknown \(legal"),
        ("pt.micro_batch=3", "micro_batch: 3 does not divide batch_size 4"),
        ("pt.warmup=100", "pt.warmup: 100 is more warm-up than steps; it is a share of the steps, 0 to less than 1"),
        ("pt.betas=[0.9,1.0]", r"pt.betas.1: .*less than 1.*got 1.0"),
        ("pt.betas=[-0.1,0.9]", r"pt.betas.0: .*greater than or equal to 0.*got -0.1"),
        ("pt.betas=[0.9]", "pt.betas"),
        ("pt.lr=true", "lr: true is no legal value"),
        ("pt.steps=true", "steps: true is no legal value"),
        ("pt.betas=[true, 0.9]", r"betas: \[true, 0.9\] is no legal value"),
        ("regimes.nca.runs={web = true}", "runs: .*true.* is no legal value"),
        ("title=true", "title: true is no legal value"),
        ("seeds.0.init=-1", "seeds.0.init: .*greater than or equal to 0.*got -1"),
        ("seeds.0.init=99999999999999999999", "seeds.0.init: .*less than 9223372036854775808"),
        ("pt.lr=0.1\npt.steps=5", r"--set 'pt.lr=0.1\\npt.steps=5': holds a line break"),
        ("title=a\rb", "holds a line break"),
        ("pt.steps=" + "9" * 5000, "--set: 9.* is no legal value"),
        ("regimes.²=1", "no item '²'"),
        ("pt.on_nonfinite=ignore", "pt.on_nonfinite: Input should be 'stop' or 'skip'"),
        ("steps", "expected key=value"),
        ("regimes.nca.runs.webb=1", "unknown key 'webb'|unknown domain 'webb'|runs"),
    ],
)
def test_a_wrong_override_says_what_is_legal(study, override, message):
    with pytest.raises(UserError, match=message):
        with_overrides(study, [override])


def test_all_problems_are_listed_at_once(study):
    with pytest.raises(UserError) as error:
        parse(ModelConfig, {"n_layer": 2, "d_model": 4, "n_heads": 2, "d_mlp": 64, "n_ctx": 64})
    text = str(error.value)
    assert "n_layer: unknown key; did you mean 'n_layers'" in text
    assert "d_model:" in text
    assert "(got 4)" in text


@settings(max_examples=50, deadline=None)
@given(steps=st.integers(1, 5000), every=st.integers(1, 700))
def test_checkpoint_steps_are_log_spaced_then_regular(steps, every):
    stage = StageConfig(steps=steps, batch_size=1, lr=1.0, checkpoint_every=every)
    kept = stage.checkpoint_steps()
    assert kept == sorted(set(kept))
    assert kept[0] == 0
    assert kept[-1] == steps
    assert set(range(every, steps + 1, every)) <= set(kept)
    assert all(2**i in kept for i in range(13) if 2**i < min(every, steps))
    assert max(b - a for a, b in zip(kept, kept[1:], strict=False)) <= max(every, 1)
    even = stage.model_copy(update={"checkpoints": "even"}).checkpoint_steps()
    assert even == sorted({0, *range(every, steps, every), steps})


def test_streams_are_fixed_and_distinct():
    assert stream_seed(0, "init", "a") == stream_seed(0, "init", "a") < 2**63
    assert len({stream_seed(0, "init", "a"), stream_seed(0, "init", "b"), stream_seed(1, "init", "a")}) == 3
    assert canonical_json({"b": 1, "a": [1.5, None]}) == '{"a":[1.5,null],"b":1}'
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_flops_per_token_is_about_six_times_parameters():
    model = ModelConfig(n_layers=24, d_model=2048, n_heads=32, d_mlp=8192, n_ctx=1024)
    assert model.n_params(50257) == 1_816_566_784 - 1024  # 1,816,565,760: arXiv 2603.10055's text model
    assert model.flops_per_token(50257) == pytest.approx(6 * model.n_params(50257), rel=0.25)


@pytest.mark.parametrize("name", sorted(discover.load("runs")))
def test_every_band_of_a_recipe_can_be_reached(name, tmp_path):
    from nca_interp.data.tokens import write_tokens

    found = discover.find("runs", name).value()
    studies = [found] if isinstance(found, Study) else found.studies
    sources = {r.source for study in studies for r in study.regimes if isinstance(r.source, NcaSpec)}
    for index, source in enumerate(sorted(sources, key=canonical_json)):
        meta = write_tokens(tmp_path / str(index), source, n_train=4, n_val=1, seq_len=64, seed=0)
        assert meta.provenance["train"]["acceptance_rate"] > 0.005 or source.band is None, source


def test_truth_values_are_legal_where_they_are_meant(study):
    assert with_overrides(study, ["model.tied=true", "pt.decay_norms=true", "regimes.nca.ft=false"]).model.tied is True
