"""SIGINT and SIGTERM before and between the parts that collect them: exit code, and the command that goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

BODY = """
import os, signal, sys, time
from nca_interp.signals import interruptible
sys.argv = ["nca-interp", "train", "my study"]
def work():
    {body}
sys.exit(interruptible(work))
"""
SEND = "os.kill(os.getpid(), signal.{name}); time.sleep(5)"
LINE = "error: stopped; what was finished is saved, continue with: nca-interp train 'my study'\n"


def run(body, **environment):
    environment = {**os.environ, **environment}
    return subprocess.run(
        [sys.executable, "-c", BODY.format(body=body)], capture_output=True, text=True, env=environment, timeout=60
    )


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_an_interruption_says_how_to_go_on(name, code):
    for body in (
        SEND.format(name=name),
        f"try: {SEND.format(name=name)}\n    except BaseException as e: raise ImportError('half imported') from e",
        f"try: {SEND.format(name=name)}\n    except KeyboardInterrupt: return 130",
    ):
        done = run(body)
        assert (done.returncode, done.stderr) == (code, LINE)


def test_what_is_no_interruption_stays_as_it_is():
    assert run("return 0").returncode == 0
    assert run("raise SystemExit(7)").returncode == 7
    done = run("raise ImportError('own fault')")
    assert done.returncode == 1
    assert "own fault" in done.stderr
    told = f"try: {SEND.format(name='SIGTERM')}\n    except KeyboardInterrupt: print('told'); raise SystemExit(143)"
    done = run(told)
    assert (done.returncode, done.stdout, done.stderr) == (143, "told\n", "")


def test_one_of_several_processes_dies_of_the_signal():
    assert run(SEND.format(name="SIGTERM"), WORLD_SIZE="2").returncode == -signal.SIGTERM


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("where", ["nca_interp.cli.app", "torch", "transformers"])
def test_the_command_line_in_its_first_second(tmp_path, number, code, where):
    """The signal arrives at the import of a module: that of our own command line, or a heavy one in the command."""
    prelude = f"""
import os, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {where!r} and not told:
            told.append(name)
            os.kill(os.getpid(), {int(number)})
told = []
sys.meta_path.insert(0, Interrupting())
sys.argv = ["nca-interp", "analyze", "--checkpoint", "absent"]
from nca_interp.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", prelude], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith("continue with: nca-interp analyze --checkpoint absent\n")
    assert "Traceback" not in done.stderr
