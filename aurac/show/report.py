"""The files of a report: Markdown, HTML, figures, the frames as CSV and JSON, and a LaTeX table."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aurac.files import write_atomic
from aurac.show import escape, views
from aurac.show.charts import save
from aurac.show.numbers import confidence
from aurac.show.page import Browser, Code, Figure, Fold, Page, Pages, Table, Text
from aurac.show.tabular import render_table
from aurac.terminal import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from matplotlib.axes import Axes

    from aurac.analysis import Analysis
    from aurac.records.run import StoredRun

SCHEMA: Final = 2
_TEMPLATES: Final = Path(__file__).parent / "templates"


def write_report(
    run: StoredRun,
    analysis: Analysis,
    out: Path | None = None,
    labels: Mapping[str, str] | None = None,
) -> list[Path]:
    """Write what an analysis of a run says; the same bytes from the same inputs.

    Args:
        run: What was measured.
        analysis: What it says.
        out: The folder to write to; by default the run's.
        labels: What adapters are called here, by their names in the analysis.

    Returns:
        The files: report.md, report.html, figures as SVG, PNG and PDF, scores.csv, points.csv,
        pairs.csv, rank_pairs.csv, recommended.csv, analysis.json and table.tex.

    Raises:
        UsageError: A label for an adapter that is not there.
    """
    analysis, folder = views.relabelled(analysis, labels or {}), Path(out or run.folder)
    slugs = escape.unique_slugs(views.tasks_of(analysis))
    figures: list[Path] = []

    def draw(how: Callable[[Axes], Axes], name: str) -> Path:
        made = save(how, folder / "figures" / name, paper=not name.endswith("-linear"))
        figures.extend(made)
        return made[0]

    page = Pages(run, analysis, draw, slugs, labels or {}).page()
    data = [*write_frames(analysis, folder), folder / "table.tex"]
    write_atomic(data[-1], latex_tables(analysis, slugs))
    names = [path.relative_to(folder).as_posix() for path in [*data, *_named(figures)]]
    texts = {"report.md": markdown_page(page, folder, names), "report.html": html_page(page, names)}
    for name, text in texts.items():
        write_atomic(folder / name, text)
    return [*(folder / name for name in texts), *data, *figures]


def _named(figures: Sequence[Path]) -> list[Path]:
    """Of each figure the file for a paper, which the page links to."""
    return [path for path in figures if path.suffix == ".pdf"]


def is_written(analysis: Analysis, folder: Path) -> bool:
    """Whether a folder holds the report of this analysis."""
    path = folder / "analysis.json"
    return (
        (folder / "report.html").is_file()
        and path.is_file()
        and path.read_text(encoding="utf-8") == _analysis_text(analysis)
    )


def _analysis_text(analysis: Analysis) -> str:
    return json.dumps(as_json(analysis), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def write_frames(analysis: Analysis, folder: Path) -> list[Path]:
    """Each frame as CSV, and all as analysis.json."""
    paths = []
    for name in views.FRAMES:
        frame = getattr(analysis, name)
        words = [column for column in frame.columns if frame[column].dtype.kind not in "biuf"]
        safe = frame.assign(**{column: frame[column].map(escape.csv_cell) for column in words})
        paths.append(folder / f"{name}.csv")
        write_atomic(paths[-1], safe.to_csv(index=False, float_format="%.10g", lineterminator="\n"))
    paths.append(folder / "analysis.json")
    write_atomic(paths[-1], _analysis_text(analysis))
    return paths


def as_json(analysis: Analysis) -> dict[str, Any]:
    """The question and the five frames; a number that is not known is null."""
    question = asdict(analysis.question)
    question["groups"] = {name: list(some) for name, some in analysis.question.groups.items()}
    frames = {name: analysis.records(name) for name in views.FRAMES}
    return {"schema": SCHEMA, "question": question, **frames}


def latex_tables(analysis: Analysis, slugs: Mapping[str, str]) -> str:
    """A booktabs table of each task: accuracy at each rank and AURAC with its interval."""
    parts = [
        r"% Needs \usepackage{booktabs} and, for pdfLaTeX, \usepackage[T1]{fontenc}, {textcomp}."
    ]
    for task, slug in slugs.items():
        of = views.view(analysis, task)
        examples = f", {of.examples} examples" if of.examples else ""
        seeds = f", {of.seeds} seeds" if of.seeds > 1 else ""
        what = of.metric if of.rolling else f"Accuracy in percent ({of.metric})"
        level = "" if of.rolling else f"; intervals {confidence(of.level)}"
        caption = f"{what} on {task} at each rank{examples}{seeds}{level}."
        parts += [
            "\\begin{table*}\n\\centering",
            f"\\caption{{{escape.latex(caption)}}}",
            f"\\label{{tab:aurac-{slug}}}",
            render_table(views.accuracy_table(of), "latex"),
            "\\end{table*}",
        ]
    return "\n".join(parts) + "\n"


def markdown_page(page: Page, folder: Path, files: Sequence[str]) -> str:
    """The page as GitHub's Markdown."""
    parts = [f"# {escape.markdown(page.title)}", escape.markdown(page.lead)]
    for text in page.verdict:
        parts += [f"**{escape.markdown(text.text)}**", *_markdown(Code(text.command), folder)]
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
        case Text():
            yield escape.markdown(block.text)
        case Code():
            yield escape.markdown_fence(block.text, 4000) if block.text else ""
        case Table():
            yield escape.markdown(block.caption)
            yield render_table(block.frame, "markdown", left=block.left)
        case Figure():
            path = block.svg.relative_to(folder).as_posix()
            yield f"![{escape.markdown(block.alt)}]({path})"
            yield escape.markdown(block.caption)
        case Browser():
            yield from _markdown_answers(block)
        case Fold():
            yield f"<details><summary>{escape.markdown(block.summary)}</summary>"
            for inner in block.blocks:
                yield from _markdown(inner, folder)
            yield "</details>"


def _markdown_answers(block: Browser) -> Iterator[str]:
    """Two examples on which the answers differ; all are on the HTML page."""
    found = block.answers.differing(2)
    if found:
        yield "Where the answers differ (report.html has more):"
    for one in found:
        yield f"Example {escape.markdown(one['id'])}"
        if one["question"]:
            yield escape.markdown_fence(one["question"], 400)
        for name, text, score in one["answers"]:
            yield f"{escape.markdown(name)}: {'right' if score >= 0.5 else 'wrong'}"
            yield escape.markdown_fence(text or "(empty)", 300)


def html_page(page: Page, files: Sequence[str]) -> str:
    """The page as one HTML file that loads nothing."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True
    )
    environment.filters |= {
        "kind": lambda block: type(block).__name__,
        "line": one_line,
        "tabular": lambda block: Markup(render_table(block.frame, "html", left=block.left)),  # noqa: S704
        "dataurl": _data_url,
    }
    script = (_TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("page.html.j2").render(
        page=page,
        files=files,
        style=(_TEMPLATES / "page.css").read_text(encoding="utf-8"),
        script=script,
        script_hash=f"sha256-{digest}",
    )


def _data_url(path: Path) -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
