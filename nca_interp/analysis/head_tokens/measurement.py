"""Which tokens each head reads and writes."""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="head-tokens",
    about="Tokens that each head reads and writes, off its weights: W_E W_OV W_U and W_E W_QK W_E, for the pages of heads.",
    order=25,
    by_request=frozenset({"study"}),
    options="nca_interp.analysis.head_tokens.circuits:Options",
    measure="nca_interp.analysis.head_tokens.study:measure",
    tables="nca_interp.analysis.head_tokens.study:tables",
    cost="nca_interp.analysis.head_tokens.study:cost",
    columns={
        "head_tokens": "run step layer head circuit:text place source source_text:text target target_text:text value",
        "head_words": "run layer head group:text fact:text text:text",
    },
)
