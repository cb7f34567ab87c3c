"""pass@k, normalisation and means, by hand and by brute force; what was skipped is never right."""

from __future__ import annotations

import itertools
import math

import pytest

from nca_interp.base import UserError
from nca_interp.evaluate.answers import number_of, same_number
from nca_interp.evaluate.scores import check_k, macro, mean_known, normalised, pass_at_k


@pytest.mark.parametrize("n", [1, 4, 6])
def test_pass_at_k_is_the_share_of_all_draws_that_hold_a_right_answer(n):
    for correct in range(n + 1):
        right = [True] * correct + [False] * (n - correct)
        for k in range(1, n + 1):
            draws = list(itertools.combinations(right, k))
            assert pass_at_k(n, correct, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_by_hand():
    assert pass_at_k(64, 0, 32) == 0.0
    assert pass_at_k(64, 64, 1) == 1.0
    assert pass_at_k(4, 1, 2) == pytest.approx(0.5)
    assert pass_at_k(64, 33, 32) == 1.0


def test_no_answer_is_no_value_and_not_one():
    assert math.isnan(pass_at_k(0, 0, 1))
    assert math.isnan(mean_known([math.nan, math.nan]))
    assert mean_known([math.nan, 1.0, 0.0]) == 0.5
    assert math.isnan(macro({}))
    assert math.isnan(macro({"a": 1.0, "b": math.nan}))
    assert math.isnan(macro({"a": math.nan}, floor=True))


@pytest.mark.parametrize(("n", "correct", "k"), [(4, 1, 5), (4, 1, 0), (4, 5, 1)])
def test_what_cannot_be_is_refused(n, correct, k):
    with pytest.raises(ValueError, match="legal"):
        pass_at_k(n, correct, k)


def test_k_beyond_the_samples_is_a_users_mistake():
    check_k([1, 4], 4)
    for k in (5, 0):
        with pytest.raises(UserError, match=f"k: {k}"):
            check_k([k], 4)


def test_normalised_by_hand():
    assert normalised(0.25, 0.25) == 0
    assert normalised(1.0, 0.5) == 1
    assert normalised(0.4, 0.25) == pytest.approx(0.2)
    assert normalised(0.0, 0.5) == -1
    assert math.isnan(normalised(math.nan, 0.5))
    with pytest.raises(ValueError, match="chance"):
        normalised(1.0, 1.0)
    assert macro({"a": normalised(0.0, 0.5), "b": normalised(0.75, 0.5)}) == pytest.approx(-0.25)
    assert macro({"a": normalised(0.0, 0.5), "b": normalised(0.75, 0.5)}, floor=True) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("text", "key", "right"),
    [
        ("so\n#### 18", "18", True),
        ("#### $1,000.\nQuestion: more 3", "1000", True),
        ("it is 18.0 dollars", "18", True),
        ("18 or 19", "18", False),
        ("#### eighteen", "18", False),
        ("-3", "3", False),
    ],
)
def test_numbers_are_read_and_compared(text, key, right):
    found = number_of(text)
    assert found is not None
    assert same_number(found, key) is right


def test_no_number_is_no_answer():
    assert number_of("none at all") is None
    assert number_of("") is None


def test_without_the_extra_all_else_works_and_the_command_says_what_to_install(monkeypatch):
    """Tables, options and sandbox import nothing of lm-evaluation-harness."""
    import subprocess
    import sys

    program = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "import nca_interp.analysis.reasoning.tables, nca_interp.analysis.reasoning.study, nca_interp.evaluate.sandbox\n"
        "from nca_interp.analysis.reasoning.options import Options, settings\n"
        "from nca_interp.evaluate.settings import check\n"
        "from nca_interp.base import UserError\n"
        "try: check(settings(Options(tasks='recall:1')))\n"
        "except UserError as error: assert 'nca-interp[eval]' in str(error); print('said')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "said\n", done.stderr
