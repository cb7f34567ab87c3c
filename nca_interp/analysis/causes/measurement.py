"""What a model loses without each of its heads."""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="causes",
    about="What the end of each run loses without each head, and through which paths.",
    order=30,
    by_request=frozenset({"study", "one", "pair", "series", "several"}),
    needs=("probes",),
    applies="nca_interp.analysis.causes.study:applies",
    flags={"stage": "stages", "metric": "metric", "heads": "heads", "sets": "sets"},
    check="nca_interp.analysis.causes.study:check",
    measure="nca_interp.analysis.causes.study:measure",
    cost="nca_interp.analysis.causes.study:cost",
    options="nca_interp.analysis.causes.options:CausesOptions",
    tables="nca_interp.analysis.causes.study:tables",
    summary="nca_interp.analysis.causes.summary:summary",
    section="nca_interp.report.sections.causes:sections",
    columns={
        "causes": "run regime domain seed stage step tokens probe layer head value chance sd unit n metric by site how full "
        "rank worse p from_layer from_head at",
        "circuit_edges": "run domain seed stage regime kind order from_layer from_head layer head value chance z from_kinds:text kinds:text",
        "score_harm": "domain stage regime probe metric rho low high p p_bh seeds heads verdict",
        "top_sets": "domain stage regime probe metric family effect random random_low random_high excess low high p p_floor "
        "p_holm p_bh p_none p_none_holm p_none_bh seeds heads sets at margin unit verdict",
        "shared_heads": "domain stage regime one_stage one other rho low high p p_holm seeds heads verdict",
    },
)
