"""Printing cannot fail after the work is done, and what nobody foresaw is one line with a log, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
from nca_interp.cli import app as cli
{}
sys.argv = ["nca-interp", "planted", *sys.argv[1:]]
sys.exit(cli.call(sys.argv[1:]))
"""
PLANTED = '''
@cli.app.command()
def planted(path: str) -> None:
    """Print much, then write a file."""
    import rich
    for _ in range(3000):
        print("Größe \\u2026 \\ud83d", flush=True)
    rich.print("rich: \\u2026")
    open(path, "w").write("done")
'''


def run(body: str, *arguments: object, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM.format(body), *map(str, arguments)]
    if shell:
        command = ["bash", "-c", f"set -o pipefail; {shell}", "bash", *command]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, timeout=120)


@pytest.mark.parametrize(
    "environment",
    [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1", "PYTHONUNBUFFERED": "1"}, {"LC_ALL": "POSIX"}],
)
def test_no_encoding_and_no_lone_surrogate_stops_the_work(tmp_path: Path, environment: dict[str, str]):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(PLANTED), str(tmp_path / "x")],
        capture_output=True, env={**os.environ, **environment}, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "x").read_text() == "done"
    first = done.stdout.splitlines()[0]
    ascii_only = environment.get("PYTHONIOENCODING") == "ascii"
    assert first.startswith(b"Gr??e ? ?" if ascii_only else b"Gr")
    assert first.endswith(b"?")


def test_a_reader_that_leaves_costs_its_lines_and_not_the_work(tmp_path: Path):
    done = run(PLANTED, tmp_path / "x", shell='"$@" | head -1')
    assert (done.returncode, done.stdout.count("\n"), done.stderr) == (0, 1, "")
    assert (tmp_path / "x").read_text() == "done"


def test_a_closed_stdout_costs_nothing(tmp_path: Path):
    done = run(PLANTED, tmp_path / "x", shell='"$@" >&-')
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "x").read_text() == "done"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux only")
def test_a_full_disk_behind_stdout_is_one_sentence():
    body = "@cli.app.command()\ndef planted() -> None:\n    print(1)\n"
    done = run(body, shell='"$@" > /dev/full')
    assert done.returncode == 1
    assert done.stderr.startswith("error: No space left on device; what was whole before is intact")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ('ZeroDivisionError("a\\nb")', "ZeroDivisionError: a b"),
        ("KeyError('x')", "KeyError: 'x'"),
        ("RuntimeError()", "RuntimeError"),
    ],
)
def test_what_nobody_foresaw_says_what_to_report_and_where_the_log_is(tmp_path: Path, error: str, said: str):
    body = f"@cli.app.command()\ndef planted(x: str) -> None:\n    raise {error}\n"
    done = run(body, "a b", TMPDIR=str(tmp_path))
    (log,) = tmp_path.glob("nca-interp-*.log")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: internal error, please report it: nca-interp ")
    assert f"nca-interp planted 'a b': {said} (traceback: {log})" in done.stderr
    assert "Traceback (most recent call last)" in log.read_text()
    assert done.stderr.split("please report it: ")[1].split(" (traceback")[0] in log.read_text()
    nowhere = run(body, "x", TMPDIR=str(tmp_path / "none"), HOME="/nonexistent")
    assert nowhere.returncode == 1
    assert "Traceback" not in nowhere.stderr
