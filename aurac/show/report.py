"""The files of a report: Markdown, HTML, figures, the frames as CSV and JSON, and a LaTeX table."""

from __future__ import annotations

import base64
import csv
import hashlib
import html
import io
import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from msgspec import to_builtins

from aurac.analysis.schema import FRAMES
from aurac.curves.numbers import confidence
from aurac.files import write_atomic
from aurac.show import escape, views, wording
from aurac.show.browser import Answers, judged
from aurac.show.charts import save
from aurac.show.page import Code, Figure, Fold, Page, Pages, Table
from aurac.show.tabular import render_table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun
    from aurac.show.tabular import Columns

SCHEMA: Final = 4
_TEMPLATES: Final = Path(__file__).parent / "templates"


def write_report(run: StoredRun, analysis: Analysis, out: Path | None = None) -> list[Path]:
    """Write what an analysis of a run says; the same bytes from the same inputs.

    The files are those of one analysis: `analysis.json` goes first and comes last.

    Args:
        run: What was measured.
        analysis: What it says; its question has labels, title and primary comparisons.
        out: The folder to write to; by default the run's.

    Returns:
        report.md, report.html, the frames as CSV, table.tex, the figures and analysis.json.

    Raises:
        UsageError: A label for an adapter that is not there.
    """
    folder = Path(out or run.folder)
    figures: list[Path] = []

    def draw(how: Callable[[Axes], Axes], name: str) -> Path:
        made = save(how, folder / "figures" / name)
        figures.extend(made)
        return made[0]

    (last := folder / "analysis.json").unlink(missing_ok=True)
    pages = Pages(run, analysis, draw)
    page = pages.page()
    data = [*write_frames(analysis, folder), folder / "table.tex"]
    write_atomic(data[-1], latex_tables(pages.views, pages.slugs, str(run.provenance.get("base"))))
    papers = [path for path in figures if path.suffix == ".pdf"]
    names = [path.relative_to(folder).as_posix() for path in [*data, last, *papers]]
    texts = {"report.md": markdown_page(page, folder, names), "report.html": html_page(page, names)}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    write_atomic(last, _as_json(analysis, folder, run))
    return [*(folder / name for name in texts), *data, *figures, last]


def is_written(analysis: Analysis, folder: Path, run: StoredRun) -> bool:
    """Whether a folder holds the report of this analysis, whole."""
    files = ["report.html", "report.md", "table.tex", *(f"{name}.csv" for name in FRAMES)]
    if not all((folder / name).is_file() for name in [*files, "analysis.json"]):
        return False
    shown = re.findall(r"\((figures/[^)]+)\)", (folder / "report.md").read_text(encoding="utf-8"))
    kinds = (".svg", ".png", ".pdf")
    if not all((folder / name).with_suffix(kind).is_file() for name in shown for kind in kinds):
        return False
    known = (folder / "analysis.json").read_text(encoding="utf-8")
    return known == _as_json(analysis, folder, run)


def _as_json(analysis: Analysis, folder: Path, run: StoredRun) -> str:
    """An analysis as JSON: the run's folder from this one, the question, tables and failures."""
    content = {
        "schema": SCHEMA,
        "run": Path(os.path.relpath(run.folder, folder)).as_posix(),
        "question": to_builtins(analysis.question),
        **{name: analysis.records(name) for name in FRAMES},
        "failures": [dict(vars(failure)) for failure in run.failures],
        **({"overlaps": to_builtins(run.overlaps)} if run.overlaps else {}),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_frames(analysis: Analysis, folder: Path) -> list[Path]:
    """Each frame as CSV."""
    paths = []
    for name in FRAMES:
        records = analysis.records(name)
        lines = io.StringIO()
        writer = csv.DictWriter(lines, FRAMES[name], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: _cell(v) for k, v in record.items()} for record in records)
        paths.append(folder / f"{name}.csv")
        write_atomic(paths[-1], lines.getvalue())
    return paths


def _cell(value: Any) -> object:
    return f"{value:.10g}" if isinstance(value, float) else escape.csv_cell(value)


def latex_tables(tasks: Sequence[views.View], slugs: Mapping[str, str], base: str) -> str:
    """Of each task a booktabs table of accuracies and AURAC, and one of the differences."""
    parts = [
        r"% Needs \usepackage{booktabs} and, for pdfLaTeX, \usepackage[T1]{fontenc}, {textcomp}."
    ]
    for of in tasks:
        columns = views.accuracy_table(of)
        what = of.measure + ("" if of.rolling else f" in percent ({of.metric})")
        examples = f", {of.examples} examples" if of.examples else ""
        level = "" if of.rolling else f"; intervals {confidence(of.level)}"
        explained = "".join(f" {note}." for note in wording.notes(of, columns))
        caption = f"{what} on {of.task} at each rank{examples}; base {base}{level}.{explained}"
        parts.append(_latex_table(caption, f"aurac-{slugs[of.task]}", columns))
        if of.pairs:
            caption = f"{of.task}: {wording.caption_of_pairs(of)}"
            columns = views.difference_table(of)
            parts.append(_latex_table(caption, f"aurac-pairs-{slugs[of.task]}", columns))
    return "\n".join(parts) + "\n"


def _latex_table(caption: str, label: str, columns: Columns) -> str:
    head = f"\\caption{{{escape.latex(caption)}}}\n\\label{{tab:{label}}}"
    table = render_table(columns, "latex")
    return f"\\begin{{table*}}\n\\centering\n{head}\n{table}\n\\end{{table*}}"


def markdown_page(page: Page, folder: Path, files: Sequence[str]) -> str:
    """The page as GitHub's Markdown."""
    parts = [f"# {escape.markdown(page.title)}", *map(escape.markdown, page.lead)]
    for block in page.verdict:
        bold = f"**{escape.markdown(block)}**" if isinstance(block, str) else ""
        parts += [bold] if bold else _markdown(block, folder)
    for block in page.first:
        parts += _markdown(block, folder)
    for section in page.sections:
        parts.append(f"## {escape.markdown(section.title)}")
        for block in section.blocks:
            parts += _markdown(block, folder)
    links = ", ".join(f"[{escape.markdown(name)}]({name})" for name in files)
    return "\n\n".join(part for part in [*parts, "## Files", links] if part) + "\n"


def _markdown(block: Any, folder: Path) -> Iterator[str]:
    match block:
        case str():
            yield escape.markdown(block)
        case Code():
            yield escape.markdown_fence(block.text, 4000) if block.text else ""
        case Table():
            yield escape.markdown(block.caption)
            yield render_table(block.columns, "markdown", left=block.left)
            yield from map(escape.markdown, block.notes)
        case Figure():
            path = block.svg.relative_to(folder).as_posix()
            yield f"![{escape.markdown(block.alt)}]({path})"
            yield escape.markdown(block.caption)
        case Answers():
            yield from _markdown_answers(block)
        case Fold():
            yield f"<details><summary>{html.escape(one_line(block.title))}</summary>"
            for inner in block.blocks:
                yield from _markdown(inner, folder)
            yield "</details>"


def _markdown_answers(answers: Answers) -> Iterator[str]:
    """Two examples; all are on the HTML page."""
    yield "Answers (report.html has more):"
    for one in answers.differing(2):
        yield f"Example {escape.markdown(one['id'])}"
        if one["question"]:
            yield escape.markdown_fence(one["question"], 400)
        if one["target"]:
            yield "Reference"
            yield escape.markdown_fence(one["target"], 400)
        for name, text, score in one["answers"]:
            yield f"{escape.markdown(name)}: {judged(score)}"
            yield escape.markdown_fence(text or "(empty)", 300)


def _template(name: str) -> Any:
    """A template of `show/templates`."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True
    )
    environment.filters |= {
        "kind": lambda block: type(block).__name__,
        "line": one_line,
        "judged": judged,
        "tabular": lambda block: Markup(render_table(block.columns, "html", left=block.left)),  # noqa: S704
        "dataurl": lambda path: f"data:image/svg+xml;base64,{_base64(path.read_bytes())}",
    }
    return environment.get_template(name)


def html_page(page: Page, files: Sequence[str]) -> str:
    """The page as one HTML file that loads nothing."""
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    return str(
        _template("page.html.j2").render(
            page=page,
            files=files,
            style=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
            script=script,
            script_hash=f"sha256-{_base64(hashlib.sha256(script.encode()).digest())}",
        )
    )


def fragment(run: StoredRun, analysis: Analysis) -> str:
    """The verdict, the figures and the tables as HTML for a notebook."""
    with TemporaryDirectory() as folder:
        pages = Pages(
            run, analysis, lambda how, name: save(how, Path(folder, name), paper=False)[0]
        )
        each = pages.views if len(pages.views) > 1 else ()
        blocks = (block for of in each for block in pages.answer(of))
        render = _template("blocks.html.j2").module.render
        return "\n".join(map(render, [*pages.verdict(), *pages.overview(), *blocks]))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
