"""What `report` and `view` do beside writing one report: two side by side, an index of many, figures as files."""

from __future__ import annotations

from pathlib import Path

from nca_interp.errors import UserError


def compare(first: Path, second: Path) -> None:
    """Write the page of two reports and say where it lies."""
    from nca_interp.report.pages.against import write_against

    print(f"report: {write_against(first, second).resolve()}")


def index(folder: Path) -> None:
    """Write the index of all reports below a folder and say where it lies."""
    from nca_interp.report.pages.gallery import write_gallery

    path, count = write_gallery(folder)
    print(f"index of {count} report{'' if count == 1 else 's'}: {path.resolve()}")


def export(study: Path, folder: Path, name: str | None) -> None:
    """Write every figure of a study's report into a folder and say what lies there."""
    from nca_interp import discover
    from nca_interp.cli.progress import steps
    from nca_interp.report.figures import export_figures

    with steps() as say:
        found = export_figures(study, folder, None if name is None else discover.find("reports", name), say)
    print(f"figures: {folder.resolve()}: {found.figures} figures, {found.pictures} pictures as SVG and PNG, a CSV each")
    for figure, what in found.cut.items():
        print(f"{figure}: {what}; the page shows the others")
    if found.bare:
        print(f"CSV alone, for they are drawn by the page's script: {', '.join(found.bare)}")


def page_of(path: Path) -> Path:
    """The page that `view` opens: a page itself, the report of a folder, else an index of those below it, written now."""
    from nca_interp.report.pages.gallery import entries, write_gallery
    from nca_interp.report.pages.phase import PhaseFolder
    from nca_interp.report.render import is_page
    from nca_interp.store import AnalysisDir, StudyDir

    if path.is_file():
        if not is_page(path):
            raise UserError(f"{path}: no page of this program")
        return path
    directory = AnalysisDir(path)
    if is_page(directory.report):
        return directory.report
    if directory.collection.is_file() or PhaseFolder.is_one(path) or (path / "study.json").is_file():
        raise UserError(f"{directory.report}: no report yet; run: nca-interp report {path}")
    if not path.is_dir() or not entries(path):
        StudyDir.open(path)  # says what is wrong
    return write_gallery(path)[0]
