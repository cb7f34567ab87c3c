"""Specifications refuse what cannot be made, and say what is legal."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from nca_interp.data.specs import DyckSpec, NcaSpec, QaSpec, SourceSpec, TextSpec, TokenizerSpec


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: NcaSpec(n_states=10, patch=4),
            r"n_states: 10 states and patch 4 need a vocabulary of 1e\+16.*4,194,304.*at most 2",
        ),
        (lambda: NcaSpec(grid=15, patch=5), "use a smaller patch"),
        (lambda: NcaSpec(grid=12, patch=5), "patch: 5 does not divide grid 12; legal: 1, 2, 3, 4, 6, 12"),
        (lambda: NcaSpec(band=(0.7, 0.5)), "band: .* is not a range"),
        (lambda: NcaSpec(tau=-1), "tau"),
        (lambda: NcaSpec(n_states=1), "n_states"),
        (lambda: NcaSpec(colours=3), "colours"),
        (lambda: DyckSpec(p_open=1.0), "p_open"),
        (lambda: TokenizerSpec(vocab_size=257), "vocab_size"),
        (lambda: TokenizerSpec(kind="hf"), "name: None with kind"),
        (
            lambda: TextSpec(source="site:prose-c"),
            r"source: 'site:prose-c' is unknown; did you mean 'site:prose-.'\? \(legal: site:prose-a",
        ),
        (lambda: TextSpec(source="wiki"), "source: 'wiki' is unknown; legal: site:"),
        (lambda: TextSpec(source="files:"), "names nothing"),
        (lambda: QaSpec(source="gsm8k"), "source: 'gsm8k' is unknown; legal: arithmetic, files:"),
        (lambda: QaSpec(test_source="files:x"), "test_source"),
    ],
)
def test_illegal_values_are_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()


def test_vocabularies():
    assert NcaSpec().vocab_size == 10_002
    assert NcaSpec(n_states=15).vocab_size == 50_627
    assert NcaSpec().tokens_per_frame == 38
    assert NcaSpec(n_states=45, patch=2).vocab_size == 45**4 + 2
    assert DyckSpec().vocab_size == 128


@pytest.mark.parametrize(
    "spec", [NcaSpec(band=None, tau=0), DyckSpec(variant="shuffle"), TextSpec(source="arithmetic:")]
)
def test_json_round_trip(spec):
    adapter = TypeAdapter(SourceSpec)
    assert adapter.validate_json(spec.model_dump_json()) == spec


def test_import_is_light():
    code = (
        "import sys, nca_interp.data.specs; print(sorted({'numpy', 'numba', 'torch', 'tokenizers'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
