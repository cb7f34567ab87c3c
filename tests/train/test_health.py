"""What is wrong with a step is noticed, counted and, on request, left out, and a resumed run judges alike."""

from __future__ import annotations

import math

import pytest

from nca_interp.config import StageConfig
from nca_interp.store import sha256_file
from nca_interp.train import update as update_module
from nca_interp.train.health import SKIPS_IN_A_ROW, WINDOW, Diverged, Health
from nca_interp.train.loop import train
from tests.train.conftest import make_run


def health(**changes):
    return Health(StageConfig(steps=1, batch_size=1, lr=1, **changes))


def test_a_spike_is_a_loss_above_the_running_median():
    h = health(spike_threshold=0.5)
    assert h.judge(99.0, 1.0).event is None  # nothing to compare with yet
    for _ in range(WINDOW):
        h.judge(3.0, 1.0)
    assert h.judge(3.49, 1.0) == (None, False)
    assert h.judge(3.51, 1.0) == ("spike", False)
    assert health(spike_threshold=None).judge(1e9, 1.0) == (None, False)


def test_a_lasting_change_of_level_becomes_normal():
    h = health(on_spike="skip")
    for _ in range(WINDOW):
        h.judge(1.0, 1.0)
    events = [h.judge(3.0, 1.0) for _ in range(WINDOW)]
    assert [e.skip for e in events[:3]] == [True] * 3
    assert sum(e.skip for e in events) == WINDOW // 2
    assert h.problem(events[-1]) is None


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (1.0, math.nan)])
def test_what_is_not_finite_is_never_applied(loss, norm):
    stop, skip = health(), health(on_nonfinite="skip")
    assert stop.judge(loss, norm) == skip.judge(loss, norm) == ("nonfinite", True)
    assert stop.problem(stop.judge(loss, norm)) == "not finite"
    assert skip.problem(skip.judge(loss, norm)) is None


def test_health_recalls_what_the_metrics_say():
    one, rows = health(spike_threshold=0.2, on_spike="skip", on_nonfinite="skip"), []
    losses = [3 - 0.01 * k for k in range(60)] + [9.0, math.nan, 2.4, 2.3]
    for step, loss in enumerate(losses, 1):
        skip = one.judge(loss, 1.0).skip
        rows.append({"step": step, "loss": loss if math.isfinite(loss) else None, "skipped": skip})
    again = health(spike_threshold=0.2)
    again.recall([{"step": 0, "loss": 5.0}, *rows])
    assert again.losses == one.losses
    assert again.skipped == one.skipped


def plant(monkeypatch, broken, gradients=True):
    """Add `broken[step]` to the loss of those steps (and multiply their gradients by it); "die" raises."""
    real = update_module._backward

    def planted(loop, batch):
        loss, what = real(loop, batch), broken.get(loop.step)
        if what == "die":
            raise RuntimeError("planted")
        if what is not None:
            for p in loop.raw_model.parameters() if gradients else ():
                p.grad *= what
            loss = loss + what
        return loss

    monkeypatch.setattr(update_module, "_backward", planted)


def result(study, run):
    directory = study.run(run.id)
    rows = [
        {k: v for k, v in r.items() if "per_second" not in k and "share" not in k} for r in directory.read_metrics()
    ]
    return sha256_file(directory.checkpoint(run.config.steps) / "model.safetensors"), rows


def test_a_skipped_step_leaves_the_weights_and_stays_resumable(study, monkeypatch):
    broken = {5: math.nan, 9: math.inf, 40: 50.0}
    settings = {"steps": 44, "checkpoint_every": 4, "on_nonfinite": "skip", "on_spike": "skip"}
    whole, resumed = make_run(id="a", **settings), make_run(id="b", **settings)
    plant(monkeypatch, broken)
    train(study, whole)
    for death in (7, 10, 39, 42):
        monkeypatch.undo()
        plant(monkeypatch, broken | {death: "die"})
        with pytest.raises(RuntimeError, match="planted"):
            train(study, resumed)
    monkeypatch.undo()
    plant(monkeypatch, broken)
    train(study, resumed)
    assert result(study, whole) == result(study, resumed)
    events = {r["step"]: (r["event"], r["skipped"]) for r in study.run("a").read_metrics() if r["event"]}
    assert events == {6: ("nonfinite", True), 10: ("nonfinite", True), 41: ("spike", True)}
    first = load(study, "a", 4), load(study, "a", 8)
    assert any((first[0][n] != first[1][n]).any() for n in first[0])


def load(study, run, step):
    from safetensors.torch import load_file

    return load_file(study.run(run).checkpoint(step) / "model.safetensors")


def test_skipping_one_step_is_training_without_it(study, monkeypatch):
    """A skip at step 3 of 4 leaves the weights of step 3."""
    run = make_run(steps=4, on_nonfinite="skip", checkpoint_every=1)
    plant(monkeypatch, {3: math.nan})
    train(study, run)
    before, after = load(study, run.id, 3), load(study, run.id, 4)
    assert all((before[n] == after[n]).all() for n in before)


def test_a_counted_spike_changes_nothing(study, monkeypatch):
    plain, spiked = make_run(id="a", steps=36), make_run(id="b", steps=36)
    train(study, plain)
    plant(monkeypatch, {34: 1.5}, gradients=False)
    train(study, spiked)
    assert result(study, plain)[0] == result(study, spiked)[0]
    events = [[(r["step"], r["event"], r["skipped"]) for r in study.run(i).read_metrics() if r["event"]] for i in "ab"]
    assert events == [[], [(35, "spike", False)]]


def test_stopping_records_the_step_and_leaves_the_rest_whole(study, monkeypatch):
    run = make_run(checkpoint_every=4)
    plant(monkeypatch, {6: math.inf})
    with pytest.raises(Diverged, match=r"ppt.dyck.s0: loss inf, gradient norm inf at step 7: not finite"):
        train(study, run)
    directory = study.run(run.id)
    assert directory.status()["state"] == "diverged"
    last = directory.read_metrics()[-1]
    assert (last["step"], last["event"], last["loss"], last["grad_norm"]) == (7, "nonfinite", None, None)
    assert directory.steps() == [0, 1, 2, 4]


def test_a_run_that_only_skips_is_given_up(study, monkeypatch):
    plant(monkeypatch, dict.fromkeys(range(5, 99), math.nan))
    with pytest.raises(Diverged, match=f"{SKIPS_IN_A_ROW} steps were skipped one after the other"):
        train(study, make_run(steps=60, on_nonfinite="skip"))


def test_gradient_norms_by_group_make_up_the_whole_before_clipping(study):
    run = make_run(clip=1e-3)
    train(study, run)
    for row in study.run(run.id).read_metrics()[1:]:
        parts = [row[f"grad_norm_{group}"] for group in ("embed", "attn", "mlp", "norm")]
        assert all(part > 0 for part in parts)
        assert row["grad_norm"] == pytest.approx(math.sqrt(sum(part**2 for part in parts)), rel=1e-5)
        assert row["grad_norm"] > 10 * 1e-3  # measured before clipping
        assert 0 <= row["loader_share"] < 1
