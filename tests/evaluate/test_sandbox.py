"""Programs of a model: what they must not do fails within its limits and leaves nothing behind, in each sandbox that works here."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from nca_interp.base import UserError
from nca_interp.evaluate import sandbox
from nca_interp.evaluate.sandbox import DRIVER, Limits, candidates, run_all

HOSTILE = {
    "fork bomb": "import os\nwhile True:\n    os.fork()\n",
    "endless loop": "while True:\n    pass\n",
    "memory hog": "x = []\nwhile True:\n    x.append(bytearray(1 << 24))\n",
    "file write": "open({mark!r}, 'w').write('here')\n",
    "write to the system": "open('/usr/nca_interp_was_here', 'w')\n",
    "large file": "with open('big', 'wb') as f:\n    while True:\n        f.write(bytes(1 << 16))\n        f.flush()\n",
    "socket": "import socket\ns = socket.socket()\ns.settimeout(3)\ns.connect(('127.0.0.1', {port}))\n",
    "signal to the parent": "import os, signal\nos.kill({pid}, signal.SIGKILL)\n",
    "signal to its own parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nos.kill(-1, signal.SIGKILL)\n",
    "flood of output": "while True:\n    print('x' * 100000, flush=True)\n",
    "flood of the channel": "import os\nwhile True:\n    for fd in range(3, 10):\n        try: os.write(fd, b'x' * 100000)\n        except OSError: pass\n",
    "deletes its directory": "import os, shutil\nshutil.rmtree(os.getcwd())\nassert os.path.isdir(os.getcwd())\n",
    "reads the environment": "import os\nassert os.environ['NCA_INTERP_SECRET']\n",
    "reads the parent's environment": "assert b'NCA_INTERP_SECRET' in open('/proc/{pid}/environ', 'rb').read()\n",
    "reads files of the user": "open({own!r}).read()\n",
    "leaves a child": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\nraise SystemExit(1)\n",
    "says success and leaves": "import os\nos._exit(0)\n",
    "exits with success": "import sys\nsys.exit(0)\n",
    "prints the word": "print('passed')\nraise ValueError\n",
    "no program": "def f(:\n",
}
LIMITS = Limits(seconds=12.0, cpu_seconds=2)


@pytest.fixture(params=["bubblewrap", "sandlock"], scope="module")
def box(request):
    found = candidates().get(request.param, "not for this platform")
    if isinstance(found, str):
        pytest.skip(f"{request.param}: {found}")
    if (why := sandbox._tried(found)) is not None:
        pytest.skip(f"{request.param} does not work here: {why}")
    return found


def ours() -> set[int]:
    """Processes that run the driver."""
    found = set()
    for process in psutil.process_iter():
        try:
            if DRIVER in process.cmdline():
                found.add(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_program_fails_within_its_limits_and_leaves_nothing_behind(box, name, tmp_path, monkeypatch):
    import socket

    monkeypatch.setenv("NCA_INTERP_SECRET", "secret")
    mark, own = tmp_path / "mark", tmp_path / "own.txt"
    own.write_text("mine")
    folders = set(Path("/tmp").glob("nca-interp-*"))
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        values = {"mark": str(mark), "port": port, "pid": os.getpid(), "own": str(own)}
        program = HOSTILE[name]
        for key, value in values.items():
            program = program.replace("{" + key + "!r}", repr(value)).replace("{" + key + "}", str(value))
        begin = time.monotonic()
        verdict = box.run(program, LIMITS)
    assert not verdict.passed
    assert time.monotonic() - begin < LIMITS.seconds + 15
    deadline = time.monotonic() + 5
    while (left := ours()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == set()
    assert not mark.exists()
    assert not Path("/usr/nca_interp_was_here").exists()
    assert set(Path("/tmp").glob("nca-interp-*")) == folders
    assert own.read_text() == "mine"


def test_a_right_program_passes_and_a_wrong_one_does_not(box):
    assert box.run(
        "import math, typing, collections\nassert math.comb(4, 2) == 6\nopen('a', 'w').write('b')\n", LIMITS
    ).passed
    assert box.run("assert 1 == 2\n", LIMITS) == (False, "failed")
    assert box.run("print('x' * 10_000)\n" + "# " + "long " * 40_000, LIMITS).passed, "longer than a pipe holds"


def test_several_run_at_a_time_and_keep_their_order(box, monkeypatch):
    monkeypatch.setattr(sandbox, "_working", lambda: (box, ""))
    verdicts = run_all([f"assert {i} % 2 == 0\n" for i in range(6)], LIMITS, workers=2)
    assert [v.passed for v in verdicts] == [True, False] * 3


def test_where_no_sandbox_works_nothing_runs(monkeypatch, tmp_path):
    """Nothing installed, and one that is installed and does not refuse: in both cases one sentence, and no program ran."""
    mark = tmp_path / "ran"

    def bare(program, limits):
        if "nca_interp_probe" in program or "mark" in program:
            mark.touch()
        return sandbox.Verdict("x = 1" in program, "passed")

    monkeypatch.setattr(
        sandbox,
        "candidates",
        lambda: {"bubblewrap": "not installed: bwrap", "sandlock": sandbox.Sandbox("sandlock", bare)},
    )
    found, why = sandbox.working()
    assert found is None
    assert "bwrap" in why
    assert "does not refuse all that it must" in why
    monkeypatch.setattr(sandbox, "_working", sandbox.working)
    mark.unlink(missing_ok=True)
    with pytest.raises(UserError, match=r"--run-generated-code: no sandbox works.*never run without one"):
        run_all(["mark"])


@pytest.mark.skipif(sys.platform != "linux", reason="names the reason of other platforms")
def test_other_platforms_are_refused(monkeypatch):
    candidates.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert candidates() == {"bubblewrap": "programs are run on Linux only"}
    candidates.cache_clear()


def test_a_fork_bomb_beside_it_does_not_make_a_right_program_fail(box, monkeypatch):
    monkeypatch.setattr(sandbox, "_working", lambda: (box, ""))
    bomb = "import os, time\nfor _ in range(1000):\n    try:\n        if os.fork() == 0: time.sleep(3); os._exit(0)\n    except OSError: time.sleep(0.01)\n"
    verdicts = run_all(
        [bomb, *["import os\nif os.fork() == 0: os._exit(0)\nassert os.wait()[1] == 0\n"] * 3], LIMITS, workers=2
    )
    assert [v.passed for v in verdicts[1:]] == [True] * 3
