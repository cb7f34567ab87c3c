"""A user's files in the working directory are never imported, whichever way a process of ours is started."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from nca_interp.safe_path import leave_out_working_directory

TRAPS = (
    "tokenize",
    "inspect",
    "random",
    "copy",
    "typing",
    "enum",
    "shlex",
    "datasets/__init__",
    "tokenizers/__init__",
    "torch/__init__",
)
MODULE, SCRIPT = (
    [sys.executable, "-m", "nca_interp"],
    [sys.executable, "-c", "from nca_interp.__main__ import main; main()"],
)


@pytest.fixture
def trapped(tmp_path):
    """A working directory in which every file ends the process that imports it."""
    for name in TRAPS:
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise SystemExit('THE {name} OF THE USER RUNS')\n")
    return tmp_path


def run(folder, *arguments, **environment):
    return subprocess.run(
        [*map(str, arguments)], cwd=folder, env={**os.environ, "HF_HUB_OFFLINE": "1", "NUMBA_NUM_THREADS": "1", **environment},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("start", [MODULE, [sys.executable, "-P", "-c", SCRIPT[2]]])
@pytest.mark.parametrize("path", [None, "", ":", ".:/nowhere"])
def test_this_process(trapped, start, path):
    if path is not None and start is not MODULE:
        pytest.skip("an interpreter that imports anything at start reads PYTHONPATH before us")
    if path is not None:
        done = run(trapped, sys.executable, "-P", "-c", "import nca_interp.safe_path as s; s.leave_out_working_directory(); import tokenize, datasets", PYTHONPATH=path)  # fmt: skip
    else:
        done = run(trapped, *start, "list")
    assert done.returncode == 0, done.stderr
    assert "OF THE USER" not in done.stderr


def test_workers(trapped):
    """Processes of the fork server, and those that tokenise text."""
    code = (
        "from nca_interp.engine.crew import _fork_server\n"
        "worker = _fork_server({'tokens'}, 1).Process(target=print, args=('done',))\n"
        "worker.start(); worker.join()"
    )
    done = run(trapped, sys.executable, "-P", "-c", code, PYTHONSAFEPATH="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
    code = "from nca_interp.data.text.encode import _Worker; w = _Worker({'dtype': '<u2'}, 1); print(w.process.wait())"
    done = run(trapped, sys.executable, "-P", "-c", code)
    assert "OF THE USER" not in done.stderr
    assert "KeyError: 'spec'" in done.stderr  # it has begun, and read its job


def test_only_the_working_directory_is_left_out(tmp_path, monkeypatch):
    other, library = str(tmp_path / "other"), os.path.dirname(os.__file__)
    behind = [library, "/installed", str(tmp_path)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), other, f"{other}/..", *behind])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", other, "."]))
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    (tmp_path / "other").mkdir()
    leave_out_working_directory()
    assert sys.path == [other, *behind]
    assert os.environ["PYTHONPATH"] == other
    assert os.environ["PYTHONSAFEPATH"] == "1"
    os.chdir(other)
    os.rmdir(other)
    leave_out_working_directory()  # in a folder that is gone
    assert sys.path == [other, *behind]
