"""What a user calls a token source on the command line, as a specification."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterable
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from nca_interp.base import UserError
from nca_interp.checkpoint_spec import CheckpointSpec
from nca_interp.config import suggest
from nca_interp.data.controls.base import Control
from nca_interp.data.specs import CONTROLS, SITE_CORPORA, DyckSpec, NcaSpec, SourceSpec, TextSpec
from nca_interp.data.text.files import way_into
from nca_interp.data.text.hub import saved_dataset
from nca_interp.data.text.raw import COMPRESSED, TEXT_FILES, check_kind, file_kind
from nca_interp.overrides import call_study, explain, parse, with_overrides

Spec = NcaSpec | DyckSpec | TextSpec | Control
SYNTHETIC: dict[str, type[NcaSpec] | type[DyckSpec] | type[Control]] = {"nca": NcaSpec, "dyck": DyckSpec, **CONTROLS}
TEXT_SCHEMES = ("site", "files", "hf", "arithmetic")
FORMS = f"""\
  nca, dyck                    with their defaults; changed in place: nca:n_states=2,band=[0.3,1]
  {", ".join(CONTROLS)}
                               controls (docs/controls.md), changed likewise: repeat:n_symbols=16,period=[4,32]
  {", ".join("site:" + name for name in SITE_CORPORA)}, arithmetic:
  files:GLOB[,GLOB...]         files: {", ".join(TEXT_FILES)};
                               all but the last two also with {", ".join(COMPRESSED)}
  hf:NAME                      a preset, data set or folder of `datasets`, by save_to_disk too
  PATH                         a text file, a folder by save_to_disk, or a token directory (its specification)
  RECIPE.NAME                  a regime or domain of a recipe, e.g. laptop.nca"""
"""Every legal form of a source, for help and error messages."""


def parse_source(text: str, overrides: Iterable[str] = ()) -> Spec:
    """The specification that `text` names (see FORMS), with `field=value` overrides applied and everything checked.

    A scheme wins over a path, a path over a recipe. Raises UserError for anything else, with the nearest legal form.
    """
    return with_overrides(_named(text.strip()), overrides)


def token_directory(text: str) -> Path | None:
    """The token directory that `text` names, if it is one."""
    path = Path(text.strip()).expanduser()
    return path if text.strip() and (path / "meta.json").is_file() else None


def inputs(text: str, spec: Spec) -> list[Path]:
    """The files and folders that the source `text` is read from: nothing may be written over or into them.

    Of a pattern these are its files and its fixed part. The working folder and those above it are nobody's input.
    """
    found = [directory] if (directory := token_directory(text)) else []
    scheme, _, rest = spec.source.partition(":") if isinstance(spec, TextSpec) else ("", "", "")
    for part in rest.split(",") if scheme in ("files", "hf") else ():
        path = Path(part.strip()).expanduser()
        if scheme == "hf" or (path := Path(re.sub(r"\[([*?[])\]", r"\1", str(path)))).is_file():
            found.append(path)
        elif glob.has_magic(str(path)):
            found += map(Path, glob.glob(str(path), recursive=True))
            found.append(Path(*takewhile(lambda name: not glob.has_magic(name), path.parts)))
    here = Path.cwd()
    return [path for path in found if path.is_file() or (path.is_dir() and not here.is_relative_to(path.resolve()))]


def check_installed(specs: Iterable[Spec]) -> None:
    """UserError if a site: corpus among `specs` needs a package that is not installed."""
    from nca_interp.data.text.installed import EXTRAS, site_files

    for corpus in {spec.source.removeprefix("site:") for spec in specs if isinstance(spec, TextSpec)} & set(EXTRAS):
        site_files(corpus)


def _named(text: str, whole: str = "") -> Spec:
    """The specification of `text`, which stands behind `whole`."""
    scheme, colon, rest = text.partition(":")
    if scheme in SYNTHETIC:
        if scheme == "noise" and rest.strip() and not re.match(r"\s*[\w.]+\s*=", rest):
            from nca_interp.data.sample import matched_noise

            return matched_noise(_named(rest.strip(), f"{whole}noise:"), rest.strip())
        changes = re.split(r",(?=\s*[\w.]+\s*=)", rest) if rest.strip() else []
        try:
            return with_overrides(SYNTHETIC[scheme].model_validate({}), changes)
        except UserError as error:
            raise UserError(f"source {whole + text!r}: {str(error).removeprefix('--set ')}") from None
    if scheme in TEXT_SCHEMES and (colon or scheme == "arithmetic"):
        return parse(TextSpec, {"source": text if colon else f"{text}:"})
    path = Path(text).expanduser()
    if text and path.exists():
        return _file(path) if path.is_file() else _directory(path)
    found = re.fullmatch(r"([\w-]+)\.([\w.-]+)", text)
    if found and file_kind(path)[0] not in TEXT_FILES:
        return _of_recipe(*found.groups())
    where = f" in {whole + text!r}" if whole else ""
    raise UserError(
        f"source: {text!r}{where} is none of the legal forms, and no such file exists{_near(text, whole)}\n{FORMS}"
    )


def _near(text: str, whole: str) -> str:
    """'; did you mean X?': the scheme mended where there is a colon, else the nearest whole form; behind `whole`, which is of noise."""
    scheme, colon, rest = text.partition(":")
    kinds = [kind for kind in SYNTHETIC if not (whole and kind == "noise")]
    forms = [*kinds, *TEXT_SCHEMES] if colon else [*kinds, *(f"site:{c}" for c in SITE_CORPORA), "arithmetic:"]
    near = difflib.get_close_matches(scheme, forms, n=1)
    return f"; did you mean '{whole}{near[0]}{colon}{rest}'?" if near else ""


def _file(path: Path) -> TextSpec:
    check_kind(path)
    if "," in str(path):
        raise UserError(f"source: {path} has a comma in its name, which separates files; rename it or use files:<glob>")
    return TextSpec(source=f"files:{glob.escape(str(path))}")


def _directory(path: Path) -> Spec:
    """The specification of a token directory, or of what `datasets` saved; folders that hold some are told apart."""
    from nca_interp.data.tokens import TokenFile

    if (path / "meta.json").is_file():
        return validate(TokenFile.open(path, verify=False).meta.spec, str(path / "meta.json"))
    if saved_dataset(path):
        return TextSpec(source=f"hf:{path}")
    inside = sorted(p.parent for p in [*path.glob("*/meta.json"), *path.glob("tokens/*/meta.json")])
    if inside:
        raise UserError(f"source: {path} holds several token directories; choose one: {', '.join(map(str, inside))}")
    raise UserError(f"source: {path} is a folder without meta.json; {way_into(path)}")


def validate(data: dict[str, Any], where: str) -> Spec:
    """A stored specification, checked; UserError naming the file."""
    try:
        return TypeAdapter(SourceSpec).validate_python(data)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, TextSpec)}") from None


def _of_recipe(recipe: str, name: str) -> Spec:
    from nca_interp import discover

    recipes = discover.load("runs", on_error=lambda message: None)
    if recipe not in recipes:
        raise UserError(
            f"source: {recipe + '.' + name!r}: no such file, and no recipe {recipe!r}{suggest(recipe, recipes)}\n{FORMS}"
        )
    study = call_study(recipes[recipe].value, [])
    sources: dict[str, Spec] = {
        r.name: r.source for r in study.regimes if r.source is not None and not isinstance(r.source, CheckpointSpec)
    }
    sources |= {d.name: d.source for d in study.domains}
    if name not in sources:
        raise UserError(f"source: recipe {recipe!r} has no regime or domain {name!r} with data{suggest(name, sources)}")
    return sources[name]
