"""Files are whole or absent; damage is named; a folder of another study is refused."""

from __future__ import annotations

import pytest

from nca_interp.base import Busy, RunFailed, UserError
from nca_interp.store import StudyDir, commit_dir, damage, read_json, write_json, write_text


def test_commit_is_all_or_nothing(tmp_path):
    final = commit_dir(tmp_path / "c", lambda d: (d / "a").write_text("one"))
    assert damage(final) is None

    def half(directory):
        (directory / "a").write_text("two")
        raise ValueError("in the middle")

    with pytest.raises(ValueError, match="middle"):
        commit_dir(final, half)
    assert (final / "a").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["c"]
    commit_dir(final, lambda d: (d / "a").write_text("three"))
    assert (final / "a").read_text() == "three"
    assert damage(final) is None


def test_damage_is_named(tmp_path):
    final = commit_dir(tmp_path / "c", lambda d: (d / "weights").write_bytes(b"0123456789"))
    (final / "weights").write_bytes(b"012345678x")
    assert damage(final) == "weights was altered (SHA-256 differs)"
    (final / "weights").write_bytes(b"01234")
    assert damage(final) == "weights has 5 bytes instead of 10"
    (final / "weights").unlink()
    assert damage(final) == "weights is missing"


def test_full_disk_is_one_sentence_and_keeps_the_old_file(tmp_path, monkeypatch):
    import errno
    import os

    path = tmp_path / "x.json"
    write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunFailed, match=r"No space left on device \(.* MB are free in .*\); everything written before is intact"
    ):
        write_json(path, {"a": 2})
    with pytest.raises(RunFailed, match="No space left"):
        commit_dir(tmp_path / "c", lambda d: (d / "a").write_text("x"))
    monkeypatch.undo()
    assert read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_belongs_to_one_configuration(tmp_path):
    study = StudyDir(tmp_path / "s")
    study.claim({"name": "a", "pt": {"lr": 1}, "regimes": [{"name": "nca", "keep": ["attn"]}]}, {"command": "x"})
    study.claim({"name": "a", "pt": {"lr": 1}, "regimes": [{"name": "nca", "keep": ["attn"]}]}, {"command": "y"})
    assert study.read_provenance() == {"command": "x"}
    with pytest.raises(UserError, match="pt.lr: there 1, asked for 2"):
        study.claim({"name": "a", "pt": {"lr": 2}, "regimes": [{"name": "nca", "keep": ["attn"]}]}, {})
    with pytest.raises(UserError, match="regimes.nca.keep"):
        study.claim({"name": "a", "pt": {"lr": 1}, "regimes": [{"name": "nca", "keep": []}]}, {})


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match="not empty and not a study"):
        StudyDir(tmp_path).claim({}, {})
    with pytest.raises(UserError, match="not a study"):
        StudyDir.open(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_an_incomplete_last_metrics_line_is_left_out(tmp_path):
    run = StudyDir(tmp_path).run("r")
    write_text(run.metrics, '{"step": 0}\n{"step": 1}\n{"st')
    assert [row["step"] for row in run.read_metrics()] == [0, 1]


def test_a_folder_can_be_claimed_by_many_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    study = {"name": "a", "values": list(range(20))}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: StudyDir(tmp_path / "s").claim(study, {"command": str(i)}), range(40)))
    assert StudyDir(tmp_path / "s").read_config() == study
    with pytest.raises(UserError, match="  and 3 more\nchoose another --out"):
        StudyDir(tmp_path / "s").claim({f"k{i}": 0 for i in range(13)}, {})


def test_a_claim_that_was_killed_half_way_can_be_repeated(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".tmp-study.json-99").write_text("half")
    StudyDir(tmp_path / "s").claim({"name": "a"}, {})
    assert StudyDir(tmp_path / "s").read_config() == {"name": "a"}


def test_a_lock_shows_who_holds_it_and_dies_with_its_process(tmp_path):
    import multiprocessing
    import time

    from nca_interp.files import held, is_held

    def hold(lock):
        with held(lock, lambda: ""):
            time.sleep(60)

    lock = tmp_path / "x.lock"
    assert is_held(lock) is False
    process = multiprocessing.get_context("fork").Process(target=hold, args=(lock,))
    process.start()
    while not is_held(lock):
        time.sleep(0.01)
    with pytest.raises(Busy, match="process 7 has it"), held(lock, lambda: "process 7 has it", patience=0.05):
        pass
    process.kill()
    process.join()
    assert is_held(lock) is False
    with held(lock, lambda: ""):
        assert is_held(lock) is True


def test_a_study_of_an_earlier_version_is_completed_with_defaults(tmp_path):
    from nca_interp import discover

    study = discover.find("runs", "smoke").value().model_dump(mode="json")
    StudyDir(tmp_path / "s").claim(study, {})
    config = StudyDir(tmp_path / "s").config
    saved = read_json(config)
    del saved["study"]["pt"]["state_steps"]
    write_json(config, saved)
    StudyDir(tmp_path / "s").claim(study, {})
    with pytest.raises(UserError, match=r"pt.lr: there 0.001, asked for 0.1\nchoose"):
        StudyDir(tmp_path / "s").claim(study | {"pt": study["pt"] | {"lr": 0.1}}, {})
