"""The whole way as a user goes it: train, kill, resume, analyse, report, look at it in a browser."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from tests.cli.test_app import CLI, call

NUMBERS = (
    "metrics", "probes", "hits", "contrasts", "pairs", "complexity", "inference", "learned", "decode", "decoded", "reasoning",
    "speedup",
)  # fmt: skip
CLOCK = ["tokens_per_second", "loader_share"]
# fp32 on every machine: transformers alone is to agree to five digits
TWO = [
    part
    for setting in ("regimes.c4.runs={web=1}", "regimes.dyck.runs={web=1}", "precision=fp32")
    for part in ("--set", setting)
]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """The smoke study, trained, analysed and reported by the real commands."""
    folder = tmp_path_factory.mktemp("smoke") / "study"
    for arguments in (["train", "smoke", "--out", folder, *TWO], ["analyze", folder], ["report", folder]):
        result = call(*arguments, cwd=folder.parent)
        assert result.returncode == 0, result.stderr
    return folder


def table(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / "tables" / f"{name}.csv")


def test_every_table_and_the_report_are_there(study):
    for name in ("runs", *NUMBERS, "speedups", "pooled", "plan", "published"):
        assert len(table(study, name)) > 0, name
    assert (study / "report.html").stat().st_size < 5_000_000
    assert set(table(study, "runs")["state"]) == {"done"}


def test_losses_start_at_ln_vocabulary(study):
    metrics, runs = table(study, "metrics"), table(study, "runs").set_index("run")
    first = metrics[(metrics["step"] == 0) & (metrics["stage"] != "ft")]
    assert len(first) > 10
    for row in first.itertuples():
        assert row.val_loss == pytest.approx(math.log(runs.loc[row.run, "vocab_size"]), abs=0.05), row.run


def test_validation_loss_is_that_of_transformers_alone(study):
    """The last reported loss, recomputed by code that knows nothing of the trainer."""
    from transformers import AutoModelForCausalLM

    metrics = table(study, "metrics")
    for run in ("pt.nca.web.s0", "ppt.nca.s1", "pt.scratch.math.s1"):
        checkpoint = sorted((study / "runs" / run / "checkpoints").iterdir())[-1]
        provenance = json.loads((checkpoint / "provenance.json").read_text())
        directory = study / provenance["tokens_dir"]
        meta = json.loads((directory / "meta.json").read_text())
        rows = np.fromfile(directory / "val.bin", dtype=meta["dtype"]).reshape(-1, meta["seq_len"] + 1).astype(np.int64)
        labels = rows.copy()
        labels[:, : max(1, meta["unsupervised_prefix"])] = -100
        model = AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True).eval()
        with torch.no_grad():
            logits = model(torch.tensor(rows[:, :-1])).logits.double()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.tensor(labels[:, 1:]).flatten())
        reported = metrics[metrics["run"] == run].sort_values("step")["val_loss"].iloc[-1]
        assert loss.item() == pytest.approx(reported, rel=1e-5), run


def test_effects_are_those_of_the_metrics(study):
    metrics = table(study, "metrics")
    final = (
        metrics[metrics["stage"] == "pt"]
        .dropna(subset=["val_loss"])
        .sort_values("step")
        .groupby("run")["val_loss"]
        .last()
    )
    contrasts = table(study, "contrasts")
    row = contrasts[
        (contrasts["family"] == "regime") & (contrasts["domain"] == "web") & (contrasts["control"] == "scratch")
    ].iloc[0]
    expected = np.mean([final[f"pt.nca.web.s{s}"] - final[f"pt.scratch.web.s{s}"] for s in (0, 1)])
    assert row["n"] == 2
    assert row["effect"] == pytest.approx(expected, rel=1e-9)
    assert row["low"] < row["effect"] < row["high"]
    single = contrasts[
        (contrasts["family"] == "regime") & (contrasts["domain"] == "web") & (contrasts["control"] == "dyck")
    ].iloc[0]
    assert single["verdict"] == "no verdict (one seed)"
    # the validation rows that the trainer kept, and one family over both domains
    assert row["items"] > 1
    assert set(contrasts["comparisons"]) == {int((contrasts["planned"] > 1).sum())}


def test_the_plan_was_kept_before_the_first_run(study):
    kept = json.loads((study / "plan.json").read_text())
    for run in ("ppt.nca.s0", "pt.scratch.math.s1"):
        checkpoint = sorted((study / "runs" / run / "checkpoints").iterdir())[0]
        assert json.loads((checkpoint / "provenance.json").read_text())["plan_sha256"] == kept["sha256"]
    assert not table(study, "plan")["changed"].any()


def test_what_was_learned_is_what_the_checkpoint_alone_says(study, tmp_path):
    row = table(study, "learned").set_index("run").loc["ppt.nca.s1"]
    assert row["verdict"].startswith(("no better than", "inconclusive", "uses its context"))
    assert not row["inferred"]
    checkpoint = sorted((study / "runs/ppt.nca.s1/checkpoints").iterdir())[-1]
    result = call("analyze", "--checkpoint", checkpoint, "--only", "inference", "--out", tmp_path / "a", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert row["sentence"] in result.stdout
    stored = table(study, "inference").query("run == 'ppt.nca.s1'")
    stored = stored[stored["step"] == stored["step"].max()]
    np.testing.assert_allclose(table(tmp_path / "a", "inference")["value"], stored["value"], atol=1e-6)
    assert (
        "Not shown to have inferred the rules of the synthetic task: NCA (0 of 2 runs)"
        in (study / "report.html").read_text()
    )


def test_stored_scores_are_those_of_the_checkpoint_measured_alone(study):
    """A score in the tables equals that of the checkpoint opened by itself (eager parity: tests/analysis)."""
    from transformers import AutoModelForCausalLM

    from nca_interp.analysis.probing.engine import analyze

    checkpoint = sorted((study / "runs/pt.nca.web.s0/checkpoints").iterdir())[-1]
    frame = analyze(
        checkpoint,
        probes=["previous_token"] if "previous_token" in set(table(study, "probes")["probe"]) else ["previous-token"],
    )
    stored = table(study, "probes")
    stored = stored[(stored["run"] == "pt.nca.web.s0") & (stored["probe"] == frame["probe"].iloc[0])]
    last = stored[stored["step"] == stored["step"].max()]
    np.testing.assert_allclose(last["value"].to_numpy(), frame["value"].to_numpy(), rtol=1e-6)
    assert (
        AutoModelForCausalLM.from_pretrained(checkpoint, local_files_only=True).config.num_hidden_layers
        == frame["layer"].max() + 1
    )


def test_causes_of_a_study_are_those_of_each_checkpoint(study, tmp_path):
    result = call("analyze", study, "--causes", cwd=study.parent)
    assert result.returncode == 0, result.stderr
    rows, runs = table(study, "causes"), table(study, "runs")
    expected = runs[runs["stage"].isin(["ppt", "pt"]) & runs["role"].isin(["regime", "control"])]
    assert set(rows["run"]) == set(expected["run"])
    checkpoint = sorted((study / "runs/pt.nca.web.s0/checkpoints").iterdir())[-1]
    result = call("analyze", "--checkpoint", checkpoint, "--only", "causes", "--out", tmp_path / "a", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    ours = rows[(rows["run"] == "pt.nca.web.s0") & (rows["probe"] != "cross_stage")].reset_index(drop=True)
    alone = table(tmp_path / "a", "causes")
    assert list(ours.columns) == list(alone.columns)
    numbers = ours.columns.drop(
        ["run", "regime", "domain", "seed", "tokens", "rank", "p"]
    )  # ranks and p of heads that tie
    pd.testing.assert_frame_equal(ours[numbers], alone[numbers], rtol=1e-5, atol=1e-6, check_dtype=False)
    crossed = rows[rows["probe"] == "cross_stage"]
    assert ("pt.nca.web.s1", "ppt.nca.s1") in set(crossed[["run", "at"]].itertuples(index=False, name=None))
    assert not crossed["run"].str.contains("scratch").any()


def test_a_second_call_redoes_nothing(study):
    before = {p: p.stat().st_mtime_ns for p in study.glob("runs/*/checkpoints/*/model.safetensors")}
    folders = ("runs/*/probes", "runs/*/inference", "runs/*/causes", "nulls")
    kept = {p: p.stat().st_mtime_ns for folder in folders for p in study.glob(f"{folder}/*")}
    assert call("train", "smoke", "--out", study, *TWO, cwd=study.parent).returncode == 0
    assert call("analyze", study, "--compare", "--causes", cwd=study.parent).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    compared = {p: p.stat().st_mtime_ns for p in study.glob("runs/*/compare/*")}
    assert len(compared) > 100
    assert call("analyze", study, "--compare", cwd=study.parent).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in compared} == compared
    compared_networks_are_alike_where_they_must_be(study)


def test_every_probe_has_the_level_of_random_models(study):
    probes, hits = table(study, "probes"), table(study, "hits")
    assert probes["null_95"].notna().all()
    assert set(hits["models"]) == {5}
    assert set(hits["run"]) == set(probes["run"])
    named = probes.groupby("probe")["hit"].apply(lambda column: column.notna().all())
    assert set(hits["probe"]) == set(named[named].index)
    refused = call("analyze", study, "--random", "-1", cwd=study.parent)
    assert refused.returncode == 2


def compared_networks_are_alike_where_they_must_be(study):
    similarity, weights = table(study, "similarity"), table(study, "weights")
    assert set(similarity.comparison) == {"regimes", "seeds", "across", "time"}
    assert similarity.value.between(-0.2, 1 + 1e-9).all()
    # regimes of a seed have one language embedding, which six steps hardly move; two seeds have nothing in common
    embedding = similarity[(similarity.layer_a == 0) & (similarity.layer_b == 0)]
    assert embedding[embedding.comparison == "regimes"].value.min() > 0.95
    assert embedding[embedding.comparison.isin(["seeds", "across"])].value.max() < 0.9
    assert (weights[weights.step == 0].displacement == 0).all()
    assert (weights[(weights.step > 0) & (weights["rank"] > 0)].displacement > 0).all()
    assert table(study, "streams").effective_rank.between(1, 32).all()
    assert table(study, "updates").cosine.dropna().between(-1 - 1e-9, 1 + 1e-9).all()


def test_another_configuration_is_refused_and_nothing_changes(study):
    before = (study / "study.json").read_bytes()
    result = call("train", "smoke", "--out", study, *TWO, "--set", "pt.lr=0.5", cwd=study.parent)
    assert result.returncode == 2
    assert "pt.lr: there 0.001, asked for 0.5" in result.stderr
    assert (study / "study.json").read_bytes() == before


def test_killed_and_started_again_ends_in_the_same_tables(study, tmp_path):
    """SIGKILL the whole command, SIGTERM it, then let it finish: every number equals that of the undisturbed study."""
    folder = tmp_path / "study"
    command = [*CLI, "train", "smoke", "--out", str(folder), *TWO]
    for number, seconds in ((signal.SIGKILL, 6.0), (signal.SIGTERM, 12.0)):
        process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        time.sleep(seconds)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        # -SIGTERM: a machine so slow that the command had not begun; 0: one so fast that it was done
        assert process.returncode in (0, 143, -signal.SIGTERM, -signal.SIGKILL)
        if process.returncode == 143:
            assert "continue with: nca-interp train smoke" in errors
    for arguments in (["train", "smoke", "--out", folder, *TWO], ["analyze", folder]):
        result = call(*arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    for name in NUMBERS:
        a, b = table(study, name), table(folder, name)
        pd.testing.assert_frame_equal(a.drop(columns=CLOCK, errors="ignore"), b.drop(columns=CLOCK, errors="ignore"))


def test_the_report_opens_in_a_browser_without_a_request(study):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(color_scheme="dark")
        errors, requests = [], []
        page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: errors.append(str(e)))
        page.on("request", lambda r: requests.append(r.url))
        page.goto((study / "report.html").resolve().as_uri() + "#all")
        page.wait_for_selector("html[data-ready]", state="attached", timeout=240_000)
        text = page.inner_text("body")
        browser.close()
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:")) for url in requests)
    assert "no verdict (one seed)" in text.lower() or "one seed" in text.lower()
    assert "stand-in" in text


def test_a_user_probe_is_found_run_and_reported(study, tmp_path):
    shutil.copytree(study, tmp_path / "study")
    (tmp_path / "probes").mkdir()
    (tmp_path / "probes" / "two_back.py").write_text(
        '"""Two back: attention to the token two places before the query (range 0 to 1)."""\n'
        "from nca_interp import probe, repeated_tokens\n\n\n"
        '@probe(stimulus=repeated_tokens(period=32), unit="attention mass", low=0.0, high=1.0)\n'
        "def two_back(attention):\n"
        '    """Attention to the token two places back."""\n'
        "    return attention.offset(2).mean()\n"
    )
    assert "two_back" in call("list", cwd=tmp_path).stdout.replace("two-back", "two_back")
    result = call("analyze", "study", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "two_back" in set(table(tmp_path / "study", "probes")["probe"].str.replace("-", "_"))
    (tmp_path / "probes" / "two_back.py").write_text(
        "from nca_interp import probe, repeated_tokens\n@probe(stimulus=repeated_tokens(period=32), unit='x', low=0.0, high=1.0)\ndef two_back(attention):\n    return 1 / 0\n"
    )
    result = call("analyze", "study", cwd=tmp_path)
    assert result.returncode == 1
    assert "two_back.py" in result.stderr
    assert "ZeroDivisionError" in result.stderr
    assert "Traceback" not in result.stderr
    assert sys.version_info >= (3, 11)
