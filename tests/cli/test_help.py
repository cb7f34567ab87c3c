"""Options of measurements as help shows them: what the source says is what the loaded model holds."""

from __future__ import annotations

import pytest

from nca_interp.cli.help import options_of
from nca_interp.measurement import builtin, resolve


@pytest.mark.parametrize("name", sorted(name for name, one in builtin().items() if one.measure is not None))
def test_source_and_model_agree(name):
    reference = builtin()[name].options
    read = options_of(reference)
    loaded = resolve(reference) if isinstance(reference, str) else reference
    assert [option.name for option in read] == [*loaded.model_fields]
    for option in read:
        field = loaded.model_fields[option.name]
        assert option.about == " ".join((field.description or "").split())
        assert repr(field.default) == option.default


def test_a_users_model_is_read_as_it_is():
    from nca_interp.analysis.causes.options import CausesOptions

    read = {option.name: option for option in options_of(CausesOptions)}
    assert read["how"].default == "'mean'"
    assert "mean, zero or resample" in read["how"].about
