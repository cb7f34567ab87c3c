"""Is a list that was read before retrieved word by word, and what is predicted where?"""

from nca_interp.measurement import Measurement

MEASUREMENT = Measurement(
    name="retrieval",
    about="Verbatim retrieval of nouns and random tokens; loss by position and by token frequency.",
    order=25,
    measure="nca_interp.analysis.retrieval.study:measure",
    tables="nca_interp.analysis.retrieval.tables:tables",
    summary="nca_interp.analysis.retrieval.tables:summary",
    section="nca_interp.report.sections.retrieval:section",
    cost="nca_interp.analysis.retrieval.study:cost",
    fast=0.3,
    options="nca_interp.analysis.retrieval.options:RetrievalOptions",
    columns={
        "retrieval": "run regime domain seed stage step tokens material:text length distance item quantity value low high n",
        "retrieval_seeds": "domain regime stage step tokens material:text length distance quantity value low high n",
        "profiles": "run regime domain seed stage step tokens by bin low_edge high_edge value low high n",
        "profile_seeds": "domain regime stage step tokens by bin low_edge high_edge value low high n",
    },
)
