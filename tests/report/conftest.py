"""One synthetic study of three seeds and one of a single seed, each built once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_study import write_study

from nca_interp.report.build import build_report

HOSTILE = "</script><img src=x onerror=alert(1)><b>stand-in</b>"


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seeds; the label of one regime tries to break out of the page."""
    return write_study(tmp_path_factory.mktemp("three") / "study", seeds=3, label=HOSTILE)


@pytest.fixture(scope="session")
def report(study: Path) -> Path:
    return build_report(study)


@pytest.fixture(scope="session")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_report(write_study(tmp_path_factory.mktemp("one") / "study", seeds=1))
