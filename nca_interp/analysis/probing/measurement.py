"""Probes of every head, and what random weights score on them."""

from nca_interp.measurement import Measurement

MEASUREMENT = (
    Measurement(
        name="nulls",
        about="Every probe on randomly initialised models, which say what a score is worth.",
        order=11,
        measure="nca_interp.analysis.probing.study:measure_null",
        share="nca_interp.analysis.probing.study:shares_null",
        options="nca_interp.analysis.probing.study:NullOptions",
        cost="nca_interp.analysis.probing.study:null_cost",
        fast=0.0,
    ),
    Measurement(
        name="probes",
        about="Every probe on every head of every checkpoint.",
        order=10,
        measure="nca_interp.analysis.probing.study:measure_probes",
        tables="nca_interp.analysis.probing.study:tables",
        options="nca_interp.analysis.probing.study:ProbeOptions",
        cost="nca_interp.analysis.probing.study:cost",
        fast=0.25,
        files="nca_interp.analysis.probing.study:files",
        summary="nca_interp.analysis.probing.study:summary",
        section="nca_interp.report.sections.heads:sections",
        columns={
            "probes": "run regime domain seed stage step tokens probe layer head value chance null_95 hit sd unit n",
            "hits": "run regime domain seed stage step tokens probe heads models threshold null_95 best top_mean hits hits_fdr "
            "fdr_least",
            "stimuli": "run regime domain seed stage step tokens text text_sha256 prefix drawn_from vocab_size",
        },
    ),
)
