"""The LaTeX tables and the paper's figures, set by a real TeX, hostile names and all."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from report_runs import RunMaker, many_curves, zoo_run

from aurac.show import write_report

HOSTILE = [
    "$x^2$ \\input{/etc/passwd} 50%",
    "a & b # c _ d { e } ~ f ^ g \\ h",
    "``quoted'' \"so\" <b> |x|",
    "naïve – ≤ 模型 \x1b[31m",
    "\\end{tabular}\\immediate\\write18{touch owned}",
    "[9cm] starts like the argument of a line's end",
    "*starred",
]
DOCUMENT = r"""\documentclass[twocolumn]{article}
\usepackage[T1]{fontenc}
\usepackage{textcomp,booktabs,graphicx}
\begin{document}
%s
\input{table.tex}
\end{document}
"""


def compiled(folder, figures=()):
    """The log of pdfLaTeX on a paper that reads the table and the figures."""
    lines = [rf"\noindent\includegraphics{{\detokenize{{{name}}}}}" for name in figures]
    (folder / "paper.tex").write_text(DOCUMENT % "\n\n".join(lines))
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"],
        cwd=folder,
        capture_output=True,
        check=False,
        timeout=120,
    )
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-2000:]
    assert (folder / "paper.pdf").read_bytes().startswith(b"%PDF")
    return log


def tex_is_complete():
    """Whether this machine has pdfLaTeX and every package of the document."""
    if not (shutil.which("pdflatex") and shutil.which("kpsewhich")):
        return False
    names = re.findall(r"\\usepackage(?:\[.*?\])?\{(.*?)\}", DOCUMENT)
    files = [f"{name}.sty" for several in names for name in several.split(",")]
    found = subprocess.run(["kpsewhich", *files], capture_output=True, check=False, timeout=120)
    return len(found.stdout.splitlines()) == len(files)


needs_tex = pytest.mark.skipif(
    not tex_is_complete(), reason="no pdfLaTeX with the packages of the paper (booktabs, graphicx)"
)


@needs_tex
def test_table_and_figures_compile(tmp_path):
    zoo_run(tmp_path, n=40).write()
    write_report(tmp_path)
    figures = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*-column.pdf"))
    assert len(figures) == 2
    log = compiled(tmp_path, figures)
    assert not re.search(r"Overfull \\hbox \((\d{2,})\.", log.split("table.tex")[0])


@needs_tex
@pytest.mark.usefixtures("plain_figure")
def test_the_table_is_no_wider_than_its_page(tmp_path):
    maker, accuracy = RunMaker(tmp_path, n=150), [0.2, 0.3, 0.5, 0.6, 0.7]
    maker.add("matryoshka_long", accuracy, method="matryoshka", rescale="trained")
    maker.add("matryoshka_long", accuracy, method="matryoshka", role="published")
    maker.write()
    write_report(tmp_path)
    assert "as published (without P)" in (tmp_path / "table.tex").read_text()
    assert "Overfull" not in compiled(tmp_path).split("table.tex")[1]


@pytest.mark.usefixtures("plain_figure")
def test_no_row_begins_like_an_argument_of_the_line_before(tmp_path):
    maker = RunMaker(tmp_path, n=20)
    for name in ("[9cm] wide", "*starred"):
        maker.add(name, [0.2, 0.5], ranks=(1, 2))
    maker.write()
    write_report(tmp_path)
    text = (tmp_path / "table.tex").read_text()
    assert "\n{}[9cm] wide & " in text
    assert "\n{}*starred & " in text


@needs_tex
@pytest.mark.usefixtures("plain_figure")
def test_hostile_names_are_set_as_text(tmp_path):
    maker = RunMaker(tmp_path, n=20)
    for at, name in enumerate(HOSTILE):
        maker.add(name, [0.2 + at / 20, 0.5], ranks=(1, 2), task="50% of _ & # \\task{}")
    maker.write()
    write_report(tmp_path)
    compiled(tmp_path)
    assert not (tmp_path / "owned").exists()
    text = (tmp_path / "table.tex").read_text()
    assert not re.search(r"\\(input|write|immediate|end\{document)", text)


@pytest.mark.usefixtures("plain_figure")
def test_the_table_is_what_it_was(tmp_path):
    maker = RunMaker(tmp_path, n=4, cells=False)
    maker.add("a_1", [0.5, 0.5], ranks=(1, 2), method="matryoshka")
    row = maker.curves[0]
    row.update(baseline=0.25, accuracy=[0.5, 0.75])
    row["score"] = {
        "log2": {"value": 0.625, "se": 0.1, "low": 0.5, "high": 0.75},
        "linear": {"value": 0.625, "se": None, "low": None, "high": None},
        "mean": 0.625,
    }
    maker.write()
    write_report(tmp_path)
    assert (tmp_path / "table.tex").read_text() == (
        "% Made by aurac from results.json. Needs \\usepackage{booktabs} and, for "
        "pdfLaTeX,\n"
        "% \\usepackage[T1]{fontenc} and \\usepackage{textcomp}.\n"
        "\n"
        "\\begin{table*}\n"
        "\\centering\n"
        "\\caption{AURAC on word\\_problems in percent with 95\\,\\% intervals over documents; "
        "metric exact\\_match,strict{-}match, 4 documents; one training run each.}\n"
        "\\label{tab:aurac-word_problems}\n"
        "\\begin{tabular}{@{}lllrrr@{}}\n"
        "\\toprule\n"
        "adapter & truncation & ranks & AURAC (log2) & AURAC (linear) & mean \\\\\n"
        "\\midrule\n"
        "a\\_1 & prefix, scaling rule & 1--2 & 62.5 {\\small [50.0, 75.0]} & 62.5 & 62.5 "
        "\\\\\n"
        "base model &  & 0 & 25.0 & 25.0 & 25.0 \\\\\n"
        "\\bottomrule\n"
        "\\end{tabular}\n"
        "\\end{table*}\n"
    )


@pytest.mark.parametrize("count", [1, 6, 20])
def test_paper_figures_have_their_width_and_embedded_fonts(count, tmp_path):
    many_curves(tmp_path, count, cells=False).write()
    write_report(tmp_path)
    for name, width in (("column", 3.25), ("wide", 6.75)):
        content = (tmp_path / f"figures/paper/rank-accuracy-word_problems-{name}.pdf").read_bytes()
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ([\d.]+) ?\]", content)
        assert float(box[1]) == pytest.approx(72 * width, abs=0.1)
        assert b"/FontFile2" in content  # TrueType, whole in the file
        assert b"/Type3" not in content
        assert b"/CreationDate" not in content
        assert b"/Subtype /Image" not in content  # lines, not pixels
