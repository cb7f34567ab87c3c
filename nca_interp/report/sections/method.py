"""The frame of a report: its head, published numbers beside ours, method, provenance, how to reproduce, limits."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nca_interp.report.charts.numbers import DASH, fixed, interval, listing, plain, plural, short, spread, whole
from nca_interp.report.page import Item, Note, Page, Section, Table
from nca_interp.report.record import record
from nca_interp.report.scheme import scheme
from nca_interp.report.sections.cautions import cautions
from nca_interp.report.sections.outcome import missing
from nca_interp.report.tables import Tables, each

BIBTEX = """@article{lee2026training,
  title   = {Training Language Models via Neural Cellular Automata},
  author  = {Lee, Dan and Han, Seungwook and Kumar, Akarsh and Agrawal, Pulkit},
  journal = {arXiv preprint arXiv:2603.10055},
  year    = {2026}
}"""
LIMITS = (
    "A small model and a small budget can agree with the paper, or disagree with it, for reasons that vanish with scale.",
    "The interval speaks about seeds of this very setting (initialisation, data order, rules), not about other corpora, sizes or learning rates.",
    "Attention scores say where a head looks, not what the model does with it; a high score is no proof of a circuit.",
    "Only the planned comparisons give verdicts, corrected over all of them together; tables of all heads or probes are exploration, at a false discovery rate where they say so, and every curve and map besides is uncorrected.",
    "Perplexities of different tokenizers cannot be compared; bits per byte can.",
)


def study_page(tables: Tables, sections: tuple[Section, ...], opening: int = 0) -> Page:
    """A page around `sections`, with everything that can be said from the study alone; `opening` of them stand before the cautions."""
    return Page(
        title=str(tables.study["title"]),
        subtitle=f"Study {tables.study['name']}" + (f", {_date(tables)}" if _date(tables) else ""),
        facts=_facts(tables),
        cautions=cautions(tables),
        legend=tuple((r, tables.label(r)) for r in tables.main),
        sections=sections,
        record=_record(tables),
        opening=opening,
        scheme=scheme(tables),
    )


def _date(tables: Tables) -> str:
    return str(tables.provenance.get("created", ""))[:10]


def _facts(tables: Tables) -> tuple[tuple[str, str], ...]:
    model, runs = tables.study["model"], tables.runs
    pt, ppt, prov = runs[runs.stage == "pt"], runs[runs.stage == "ppt"], tables.provenance
    shape = f"{model['n_layers']} layers, {model['n_heads']} heads, width {model['d_model']}, context {model['n_ctx']}"
    precision = listing(sorted(set(runs.precision) - {""}))
    return (
        ("Model", f"{short(pt.params.max())} parameters: {shape}"),
        ("Pre-pre-training", f"{short(ppt.tokens.max())} tokens" if len(ppt) else _parents(tables)),
        (
            "Pre-training",
            f"{spread(pt.groupby('domain').tokens.max())} tokens on each of {plural(len(tables.domains), 'domain')}",
        ),
        (
            "Compared",
            f"{plural(len(tables.main), 'regime')}, {plural(tables.n_seeds, 'seed')}, {plural(len(runs), 'training run')}",
        ),
        ("Device", ", ".join(str(x) for x in (prov.get("device"), prov.get("cpu"), precision) if x) or DASH),
    )


def _parents(tables: Tables) -> str:
    """Of a study without a synthetic stage of its own."""
    sources = [regime.get("source") or {} for regime in tables.study["regimes"]]
    paths = dict.fromkeys(path for source in sources for path in source.get("paths", ()))
    return f"elsewhere: {plural(len(paths), 'checkpoint')}" if paths else "none"


def _record(tables: Tables) -> dict[str, Any]:
    verdicts = tables.contrasts.astype(object).where(tables.contrasts.notna(), None).to_dict("records")
    rest = {
        "claims": tables.claims.astype(object).where(tables.claims.notna(), None).to_dict("records"),
        "verdicts": verdicts,
        "warnings": list(cautions(tables)),
        "deviations": list(tables.study.get("deviations", [])),
        "configuration": tables.study,
        "provenance": tables.provenance,
        "tables": tables.hashes(),
    }
    return record("study", str(tables.study["name"]), str(tables.study["title"]), tables.provenance, rest)


def deviations(tables: Tables) -> list[Item]:
    """What differs from the paper, as the study itself declares it."""
    told = tables.study.get("deviations", [])
    return (
        [Table(("declared deviation from the paper",), tuple((str(d),) for d in told), "", id="tab-deviations")]
        if told
        else []
    )


def published(tables: Tables) -> list[Item]:
    """Published numbers beside ours, each with why it is or is not the same setting."""
    rows = tables.published
    if rows.empty:
        return [missing("published number", "published.csv")]
    body = tuple(
        (
            tables.domain_label(r.domain), r.metric, tables.label(r.regime) if r.regime else DASH, plain(r.published), plain(r.ours),
            interval(r.ours_low, r.ours_high, 2, sign=False), "yes" if r.same_setting else f"no, because {r.why}" if r.why else "no", r.source or DASH,
        )
        for r in each(rows)
    )  # fmt: skip
    same = int(rows.same_setting.sum())
    caption = f"{plural(len(rows), 'published number')}, {same if same else 'none'} of them measured in our setting, so signs may be compared, sizes not."
    return [
        Table(
            ("domain", "number", "regime", "published", "ours", "95 % interval", "same setting?", "where"),
            body,
            caption,
            frozenset({3, 4, 5}),
            "tab-published",
        )
    ]


def definitions(tables: Tables) -> list[Item]:
    """Every probe: what it measures, its unit, range and chance level."""
    docs = {d["name"]: d for d in tables.probe_docs}
    measured = (
        tables.probes.groupby("probe", sort=False).agg(
            unit=("unit", "first"), low=("chance", "min"), high=("chance", "max")
        )
        if tables.has("probes")
        else pd.DataFrame()
    )
    names = list(dict.fromkeys([*docs, *measured.index]))
    if not names:
        return [missing("definition of a probe", "probes.json")]
    body = []
    for name in names:
        doc = docs.get(name, {})
        known = measured.loc[name] if name in measured.index else None
        unit = doc.get("unit") or (known.unit if known is not None else "") or DASH
        span = (
            f"{plain(doc['low'])} to {plain(doc['high'])}"
            if doc.get("low") is not None and doc.get("high") is not None
            else DASH
        )
        body.append((name, str(doc.get("doc") or DASH), unit, span, _chance(known)))
    return [
        Table(
            ("probe", "definition", "unit", "range", "chance"),
            tuple(body),
            "Probes and their chance levels.",
            frozenset({3, 4}),
            "tab-probes",
        )
    ]


def _chance(known: Any) -> str:
    if known is None or pd.isna(known.low):
        return DASH
    return fixed(known.low) if fixed(known.low) == fixed(known.high) else f"{fixed(known.low)} to {fixed(known.high)}"


def provenance_tables(tables: Tables) -> tuple[Item, Item]:
    """Machine and versions; the files that a page was made from."""
    facts = tuple((k.replace("_", " "), written(v)) for k, v in tables.provenance.items())
    return (
        Table(("fact", "value"), facts, "Software, machine and command.", id="tab-machine"),
        Table(
            ("file", "SHA-256"),
            tuple(tables.hashes().items()),
            "Files this page was made from.",
            id="tab-files",
            folded=True,
        ),
    )


def provenance(tables: Tables) -> list[Item]:
    """Where every number comes from: machine and versions, configuration, runs with their checkpoints, input files."""
    machine, files = provenance_tables(tables)
    config = tuple(
        (k, written(v)) for k, v in flat({k: v for k, v in tables.study.items() if k not in ("deviations",)})
    )
    runs = tuple(
        (
            r.run,
            r.label,
            r.stage,
            plain(r.seed),
            r.state,
            whole(r.steps),
            short(r.tokens),
            short(r.params),
            short(r.flops),
            r.description or DASH,
            str(r.checkpoint_sha256)[:12] or DASH,
        )
        for r in each(tables.runs)
    )
    head = ("run", "regime", "stage", "seed", "state", "steps", "tokens", "parameters", "FLOPs", "data", "checkpoint")
    return [
        machine,
        Table(
            head,
            runs,
            f"{plural(len(runs), 'training run')}: data, budget and final checkpoint.",
            frozenset({3, 5, 6, 7, 8}),
            "tab-runs",
            folded=True,
        ),
        Table(
            ("key", "value"),
            config,
            "The whole configuration, as saved before the first step.",
            id="tab-config",
            folded=True,
        ),
        files,
    ]


def flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    """Dotted path and value of every leaf of a nested configuration."""
    if isinstance(value, dict) and value:
        return [pair for k, v in value.items() for pair in flat(v, f"{path}.{k}".lstrip("."))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [pair for i, v in enumerate(value) for pair in flat(v, f"{path}.{v.get('name', i)}")]
    return [(path, value)]


def written(value: Any) -> str:
    """Any value of a configuration as text."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {written(v)}" for k, v in value.items()) or DASH
    if isinstance(value, list | tuple):
        return ", ".join(written(v) for v in value) or DASH
    return "none" if value is None else plain(value) if isinstance(value, bool | float) else str(value)


def reproduce(tables: Tables) -> list[Item]:
    """The exact command and the commit."""
    commit, version = tables.provenance.get("git_commit"), tables.provenance.get("version")
    lines = [f"git checkout {commit}"] if commit else []
    lines.append(str(tables.provenance.get("command") or f"nca-interp report {tables.dir.path.name}"))
    return [
        Note("\n".join(lines), code=True),
        Note(f"nca-interp {version}." if version else "The same tables give the same page, byte for byte.", quiet=True),
    ]


def limits(tables: Tables) -> list[Item]:
    """What these numbers cannot say."""
    return [Note(text) for text in LIMITS]


def citation(tables: Tables) -> list[Item]:
    """BibTeX of the paper whose claims are tested, and of this program in the version that was used."""
    version, commit = tables.provenance.get("version"), tables.provenance.get("git_commit")
    lines = [
        "@software{nca_interp,",
        "  title   = {nca-interp: why does pre-pre-training on synthetic data help, and which parts of the network carry it?},",
        "  author  = {{The nca-interp authors}},",
        *([f"  version = {{{version}}},"] if version else []),
        *([f"  note    = {{commit {commit}}}"] if commit else []),
        "}",
    ]
    return [Note(BIBTEX, code=True), Note("\n".join(lines), code=True)]
