"""Studies that are unlike the demonstration: one run, sixty regimes, names of markup, tables of an older version or missing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from synthetic_models import Model, write_collection
from synthetic_study import write_study

from nca_interp import discover
from nca_interp.base import UserError
from nca_interp.report.build import build_report, page_of
from nca_interp.report.charts.theme import SHAPES
from nca_interp.report.glossary import GLOSSARY, Glosser, anchor, document
from nca_interp.report.page import MOST_OPEN, Figure, Note, Page, Section
from nca_interp.report.render import render, unpacked
from nca_interp.report.scheme import MOST, scheme
from nca_interp.report.sections.claims import JUDGED
from nca_interp.report.tables import Tables

HOSTILE = "</script><svg onload=alert(1)>{{ 7*7 }} $&"


def _rewrite(study: Path, name: str, change) -> None:
    file = study / "tables" / f"{name}.csv"
    change(pd.read_csv(file, dtype=str, keep_default_na=False)).to_csv(file, index=False)


def _tables(study: Path) -> list[str]:
    return sorted(path.stem for path in (study / "tables").glob("*.csv"))


def test_one_run_alone(tmp_path: Path):
    """Of everything only the rows of one run: no comparison, no claim, no verdict, and the page says so."""
    study = write_study(tmp_path / "s", seeds=1)
    saved = json.loads((study / "study.json").read_text())
    keep = "pt.scratch.web.s0"
    for name in _tables(study):
        _rewrite(study, name, lambda f: f[f.run == keep] if "run" in f else f[:0])
    saved["study"]["regimes"] = [r for r in saved["study"]["regimes"] if r["name"] == "scratch"]
    (study / "study.json").write_text(json.dumps(saved))
    for name in ("patterns.json", "patterns.npz"):
        (study / "tables" / name).unlink(missing_ok=True)
    text = build_report(study).read_text()
    assert 'id="fig-loss"' in text
    assert "No planned comparison was computed" in text
    assert "Left out: this study holds no claim with a verdict" in text
    for word in ("better", "worse", "supported", "contradicted"):
        assert f'<span class="badge">{word}' not in text


def test_sixty_regimes(tmp_path: Path):
    """Every regime keeps its name, and colours that come round again come with another shape."""
    study = write_study(tmp_path / "s", seeds=2)
    saved = json.loads((study / "study.json").read_text())
    model = next(r for r in saved["study"]["regimes"] if r["name"] == "c4")
    names = [f"arm-{i}" for i in range(49)]
    saved["study"]["regimes"] += [{**model, "name": n, "label": f"Arm number {n}"} for n in names]
    (study / "study.json").write_text(json.dumps(saved))

    def copies(frame: pd.DataFrame) -> pd.DataFrame:
        own = frame[frame.regime == "c4"]
        more = [own.assign(regime=n, run=own.run.str.replace("c4", n)) for n in names]
        return pd.concat(
            [
                frame,
                *(m.assign(label=f"Arm number {n}") if "label" in m else m for m, n in zip(more, names, strict=True)),
            ]
        )

    for name in ("runs", "metrics"):
        _rewrite(study, name, copies)
    tables = Tables(study)
    assert len(tables.regimes) == 60
    page = page_of(study)
    assert len(page.legend) == len(tables.main)
    drawn = scheme(tables)
    assert drawn is not None
    assert len(drawn.lanes) <= MOST
    text = build_report(study).read_text()
    assert all(f"<b>{n}</b>" in text for n in names)
    assert text.count("<path d=") >= len(SHAPES)
    assert len(text.encode()) < 3_500_000


def test_names_of_markup_stay_names(tmp_path: Path):
    study = write_study(tmp_path / "s", seeds=2, label=HOSTILE)
    saved = json.loads((study / "study.json").read_text())
    saved["study"]["title"] = HOSTILE
    saved["study"]["domains"][0]["label"] = HOSTILE
    (study / "study.json").write_text(json.dumps(saved))
    _rewrite(study, "claims", lambda f: f.assign(says=HOSTILE, sentence=HOSTILE))
    text = build_report(study).read_text()
    assert HOSTILE not in text
    assert "<svg onload" not in text
    assert "{{ 7*7 }}" in text
    assert "49 $" not in text


def test_single_tables_may_be_missing_and_an_older_one_is_named(tmp_path: Path):
    study = write_study(tmp_path / "s", seeds=1)
    definition = discover.find("reports", "study")
    for name in ("runs", "metrics", "claims", "pairs", "hits", "start"):
        file = study / "tables" / f"{name}.csv"
        whole = file.read_bytes()
        file.unlink()
        if name in ("runs", "metrics"):
            with pytest.raises(UserError, match=rf"{name}\.csv: no such table.*nca-interp analyze"):
                Tables(study)
        else:
            assert definition.value(Tables(study)).sections
        file.write_bytes(whole)
    _rewrite(study, "claims", lambda f: f.drop(columns=["change"]))
    with pytest.raises(UserError, match=r"claims\.csv: column change is missing.*nca-interp analyze"):
        build_report(study)
    assert not (study / "report.html").exists()


def test_the_glossary_is_the_documents_and_every_term_is_found_once_a_part():
    assert (Path(__file__).parents[2] / "docs" / "glossary.md").read_text() == document()
    gloss = Glosser()
    gloss.begin()
    for term in GLOSSARY:
        assert f'href="#{anchor(term)}"' in gloss(f"of {term}, as said")
    assert "gloss" not in gloss("95 % intervals of seeds, and NCA")
    gloss.begin()
    assert (
        gloss("<b>two Seeds</b> & nca-plain")
        == '&lt;b&gt;two <a class="gloss" href="#gloss-seed">Seeds</a>&lt;/b&gt; &amp; nca-plain'
    )
    assert len({anchor(term) for term in GLOSSARY}) == len(GLOSSARY)


def test_a_figure_in_which_nothing_stands_out_is_a_sentence(tmp_path: Path):
    study = write_study(tmp_path / "s", seeds=2)
    flat = {"fig-load": ("score_harm", "inconclusive"), "fig-top-heads": ("top_sets", "not load-bearing")}
    for name, verdict in flat.values():
        _rewrite(study, name, lambda f, v=verdict: f.assign(verdict=v))
    items = {i.id: i for s in page_of(study).sections for i in s.items if getattr(i, "kind", "") == "figure"}
    assert all(items[name].nothing for name in flat)
    text = build_report(study).read_text()
    for name in flat:
        part = text.split(f'<figure id="{name}"')[1].split("</figure>")[0]
        assert part.index("The drawing, in which nothing stands out") < part.index('class="chart"')
        assert part.index("finding") < part.index("The drawing")
    _rewrite(study, "top_sets", lambda f: f.assign(verdict=["load-bearing", *f.verdict[1:]]))
    items = {i.id: i for s in page_of(study).sections for i in s.items if getattr(i, "kind", "") == "figure"}
    assert not items["fig-top-heads"].nothing


def test_twenty_four_layers_of_thirty_two_heads(tmp_path: Path):
    """Every head of the map is there, the highest is named, and the page stays within its budget."""
    folder = write_collection(tmp_path / "big", Model("big", layers=24, heads=32), causes=True)
    text = build_report(folder).read_text()
    assert len(text.encode()) < 3_500_000
    data = unpacked(text)
    cells = [t for t in data["datasets"].values() if {"layer", "head"} <= set(t["columns"]) and t["n"] >= 24 * 32]
    assert cells
    assert "5.3" in text  # the planted head


def test_a_table_of_claims_without_what_a_later_version_added_is_read(tmp_path: Path):
    study = write_study(tmp_path / "s", seeds=2)
    _rewrite(study, "claims", lambda f: f.drop(columns=["judged"]))
    assert set(Tables(study).claims.judged) == {""}
    text = build_report(study).read_text()
    box = text.split('<div class="claims">')[1].split("</section>")[0]
    assert not any(words in box for words in JUDGED.values())
    assert 'class="answers"' in text


def test_how_a_claim_was_judged_stands_beside_its_verdict(tmp_path: Path):
    study = write_study(tmp_path / "s", seeds=3)
    _rewrite(
        study,
        "claims",
        lambda f: f.assign(judged=["alone", *["closed"] * (len(f) - 1)], verdict=["supported", *f.verdict[1:]]),
    )
    text = build_report(study).read_text()
    first = text.split('<article class="claim"')[1].split("</article>")[0]
    assert "judged alone" in first
    assert "not corrected" in first
    assert "waits for the" in text.split('<article class="claim"')[2].split("</article>")[0]
    box = text.split('<div class="answers">')[1].split('<div class="claims">')[0]
    assert "judged alone" in box
    assert "While this" in box


def test_at_most_five_figures_of_a_part_stand_open():
    figures = tuple(Figure(f"fig-{i}", f"finding {i}", "how", pd.DataFrame({"x": [1]})) for i in range(8))
    note = Note("between")
    part = Section("p", "P", (note, *figures[:6], note, *figures[6:]))
    shown, rest = part.split
    assert [i for i in shown if isinstance(i, Figure)] == list(figures[:MOST_OPEN])
    assert (*shown, *rest) == part.items
    assert rest[0] is figures[MOST_OPEN]
    quiet = replace(part, items=(replace(figures[0], nothing=True), *figures[1:6]))
    assert quiet.split == (quiet.items, ())  # a drawing that is folded anyway does not count
    assert replace(part, folded=True).split[1] == ()
    text = render(Page("T", "s", (), (), (), (part,), {"study": "t"}))
    assert text.index('id="fig-4"') < text.index('<details class="fold rest">') < text.index('id="fig-5"')
    assert "4 more figures and tables" in text


def test_claims_of_a_study_rest_on_at_most_five_open_figures(tmp_path: Path):
    page = page_of(write_study(tmp_path / "s", seeds=2))
    for section in page.sections:
        shown = section.split[0]
        assert section.folded or sum(isinstance(i, Figure) and not i.nothing for i in shown) <= MOST_OPEN
