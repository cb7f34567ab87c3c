"""Following along: what `train` shows and `watch` reads, from the files alone, on a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import io
import json
import os
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from nca_interp import discover
from nca_interp.base import UserError, duration
from nca_interp.cli import progress, watch
from nca_interp.cli import status as boards
from nca_interp.cli.progress import Follow
from nca_interp.cli.running import finish
from nca_interp.engine.graph import Job, MeasureJob, Plan
from nca_interp.engine.plan import make_plan
from nca_interp.engine.runner import Outcome
from nca_interp.files import held
from nca_interp.metrics import last_rows
from nca_interp.store import AnalysisDir, StudyDir

RUN = "pt.nca.web.s0"


@pytest.fixture
def study(tmp_path):
    """A claimed smoke study in which one run is done, one running, one killed, one failed; nothing was trained."""
    recipe = discover.find("runs", "smoke").value()
    directory = StudyDir(tmp_path / "smoke")
    directory.claim(recipe.model_dump(mode="json"), {"precision": "fp32"})
    plan = make_plan(recipe, "fp32", analyze=False)
    states = {
        "ppt.nca.s0": ("done", 6),
        RUN: ("running", 0),
        "pt.scratch.web.s0": ("running", 0),
        "ppt.nca.s1": ("failed", 2),
    }
    for run_id, (state, step) in states.items():
        run = directory.run(run_id)
        run.set_status(state, step, **({"message": "cannot write x"} if state == "failed" else {}))
        for k in range(5 if state == "running" else 7):
            rate = None if k == 0 else 512.0 * k
            run.append_metrics(
                {
                    "step": k,
                    "loss": 5.0 - k / 10,
                    "val_loss": 4.5 if k in (0, 3, 6) else None,
                    "tokens_per_second": rate,
                }
            )
    return directory, plan


def snapshot(directory):
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in directory.path.rglob("*")}


def test_states_come_from_locks_not_from_clocks(study, monkeypatch):
    directory, plan = study
    monkeypatch.setattr(time, "time", lambda: -1e9)
    reader = boards.BoardReader(directory, plan.jobs)
    with held(directory.run(RUN).lock, lambda: "busy"):
        board = reader.read()
        rows = {row.run: row for row in board.rows}
        live = rows[RUN]
        assert (live.state, live.step, live.steps) == ("running", 4, 6)
        assert (live.loss, live.val_loss, live.tokens_per_second) == (4.6, 4.5, 512 * 2.5)
        assert live.remaining_seconds == pytest.approx(2 * 4 * 128 / (512 * 2.5))
        dead = rows["pt.scratch.web.s0"]
        assert dead.state == "stopped"
        assert f"process {os.getpid()} on" in dead.message
        assert rows["ppt.nca.s0"].state == "done"
        assert (rows["ppt.nca.s1"].state, rows["ppt.nca.s1"].message) == ("failed", "cannot write x")
        assert rows["pt.nca.web.s1"].state == "blocked"
        assert rows["pt.c4.web.s0"].state == "not begun"
        flops = {job.payload.id: job.flops for job in plan.jobs if job.kind == "train"}
        left = sum(
            f * (1 - rows[r].step / rows[r].steps)
            for r, f in flops.items()
            if rows[r].state in ("running", "stopped", "not begun")
        )
        rate = live.tokens_per_second * flops[RUN] / (6 * 4 * 128)
        assert board.remaining_seconds == pytest.approx(left / rate)
    assert {row.run: row.state for row in reader.read().rows}[RUN] == "stopped"


def test_watching_writes_nothing(study, capsys):
    directory, _ = study
    before = snapshot(directory)
    watch.watch(directory.path, Console(), once=True, json_=False)
    watch.watch(directory.path, Console(), once=False, json_=True)
    assert snapshot(directory) == before
    text = capsys.readouterr().out
    shown = json.loads(text[text.index("{\n") :])
    assert {"study", "finished", "remaining_seconds", "runs", "jobs"} == set(shown)
    assert next(row for row in shown["runs"] if row["run"] == RUN)["state"] == "stopped"
    with pytest.raises(UserError, match="not a study"):
        watch.reader(directory.path.parent)


def test_metrics_are_read_from_the_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert last_rows(path, 3) == []
    with open(path, "w") as file:
        for step in range(5000):
            file.write(json.dumps({"step": step, "event": "x" * (step % 700)}) + "\n")
        file.write('{"step": 5')
    assert [row["step"] for row in last_rows(path, 3)] == [4997, 4998, 4999]
    assert len(last_rows(path, 4000)) == 4000


def test_durations_are_read_at_a_glance():
    assert [duration(s) for s in (0.4, 89, 90, 3540, 4000, 200_000)] == [
        "0 s",
        "89 s",
        "2 min",
        "59 min",
        "1 h 07 min",
        "2 d 7 h",
    ]


def follow(study, console, monkeypatch):
    """What a plan of one run shows from its start to its end."""
    directory, plan = study
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.0)
    train = next(job for job in plan.jobs if job.id == f"train:{RUN}")
    shown = Follow(directory, plan, console)
    with shown.shown(), held(directory.run(RUN).lock, lambda: "busy"):
        shown.event("start", train, "")
        shown.tick([train])
        shown.event("note", train, "state/step-4 is damaged")
        shown.event("done", train, "")


def test_a_pipe_gets_plain_lines(study, monkeypatch):
    out = io.StringIO()
    follow(study, Console(file=out), monkeypatch)
    text = out.getvalue()
    assert "\x1b" not in text
    assert text.count("training runs ") == 2
    assert "1 of 32 runs done, 1 running, 1 stopped, 1 failed, 4 blocked, 1,280 tokens/s, about " in text
    assert f"{RUN} step 4/6 loss 4.600 1,280 tokens/s 1 s left" in text
    assert f"note: train:{RUN}: state/step-4 is damaged" in text


def test_lines_come_at_most_every_half_minute(study, monkeypatch):
    directory, plan = study
    out, now = io.StringIO(), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = Follow(directory, plan, Console(file=out))
    with shown.shown():
        for second in range(100):
            now[0] = float(second)
            shown.tick([])
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["0", "30", "60", "90"]


def test_a_terminal_gets_a_live_table(study, monkeypatch):
    parent, child = os.openpty()
    chunks = []

    def drain():
        with contextlib.suppress(OSError):  # how Linux says that the other end was closed
            while chunk := os.read(parent, 1 << 16):
                chunks.append(chunk)

    reading = threading.Thread(target=drain)
    reading.start()
    with os.fdopen(child, "w") as terminal:
        follow(study, Console(file=terminal, width=110, height=60), monkeypatch)
    reading.join(10)
    os.close(parent)
    text = b"".join(chunks).decode()
    assert "\x1b[" in text
    for word in (
        "regime",
        "pre-pre-training",
        "nca-reinit-attn",
        RUN,
        "4/6",
        "1,280",
        "4.600",
        "training runs 1/32",
        "1/2",
        "is damaged",
    ):
        assert word in text, word


def left(costs, spend, monkeypatch):
    """What is said of the time left of measurements of these costs when `spend` (event, job, message or seconds) has happened."""
    jobs = [Job(f"m{n}:x", "measure", MeasureJob(f"m{n}", "x"), (), 0.0, cost) for n, cost in enumerate(costs)]
    out, now = io.StringIO(), [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    shown = Follow(AnalysisDir(Path("nowhere")), Plan(None, jobs), Console(file=out))
    for what in spend:
        if isinstance(what, (int, float)):
            now[0] += what
        else:
            shown.event(what[0], jobs[what[1]], what[2])
    shown.running = [jobs[n] for n in {what[1] for what in spend if not isinstance(what, (int, float))}]
    return shown._time_left()


def test_time_left_is_in_proportion_to_what_measurements_cost(monkeypatch):
    begun = [("start", 0, ""), ("share", 0, "0:begun"), 60, ("share", 0, "0.5:half")]
    assert left([100, 200], begun, monkeypatch) == ["about 5 min left"]
    assert left([100, 200], [*begun, 60, ("done", 0, "")], monkeypatch) == ["about 4 min left"]


def test_what_is_read_before_the_first_measurement_says_nothing_of_the_rest(monkeypatch):
    begun = [("start", 0, ""), 500, ("share", 0, "0.1:begun")]
    assert left([100, 200], begun, monkeypatch) == []
    assert left([100, 200], [*begun, 60, ("share", 0, "0.7:more")], monkeypatch) == ["about 4 min left"]


def test_no_time_left_is_told_by_too_little(monkeypatch):
    small = [("start", 0, ""), 5, ("done", 0, ""), ("start", 1, ""), 100]
    assert left([1, 300], small, monkeypatch) == []
    assert left([1, 300], [*small, ("share", 1, "0.25:a quarter")], monkeypatch) == ["about 5 min left"]


def test_what_was_kept_from_an_earlier_call_says_nothing_of_the_rest(monkeypatch):
    resumed = [
        ("start", 0, ""),
        2,
        ("done", 0, ""),
        ("start", 1, ""),
        9,
        ("share", 1, "0:begun"),
        60,
        ("share", 1, "0.5:half"),
    ]
    assert left([300, 100], resumed, monkeypatch) == ["about 60 s left"]


def test_small_measurements_that_were_kept_say_nothing_either(monkeypatch):
    kept = [event for n in range(4) for event in (("start", n, ""), 0.2, ("done", n, ""))]
    resumed = [*kept, ("start", 4, ""), 9, ("share", 4, "0:begun"), 60, ("share", 4, "0.5:half")]
    assert left([20, 20, 6, 5, 100, 100], resumed, monkeypatch) == ["about 3 min left"]


@pytest.mark.parametrize(
    ("states", "said"),
    [
        ({"train:a": "stopped"}, "stopped; everything is saved, continue with: again"),
        ({"train:a": "stopped", "probes:b": "stopped"}, "stopped within probes:b; what was finished is saved, continue with: again"),
        ({"probes:a": "done"}, "stopped; everything is saved, continue with: again"),
    ],
)  # fmt: skip
def test_who_stops_a_measurement_is_not_told_that_it_was_saved(states, said, capsys):
    with pytest.raises(SystemExit) as left_with:
        finish(Outcome(states=states, stopped=2), "again")
    assert left_with.value.code == 130
    assert said in capsys.readouterr().err
