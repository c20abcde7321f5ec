"""The LaTeX table and the paper's figures, set by a real TeX, hostile names and all."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from shown import curve, stored

from aurac.analysis import analyse
from aurac.show.report import write_report

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
\noindent\includegraphics{figures/rank-accuracy-50-of-_-task.pdf}
\input{table.tex}
\end{document}
"""


def tex_is_complete():
    """Whether this machine has pdfLaTeX and every package of the document."""
    if not (shutil.which("pdflatex") and shutil.which("kpsewhich")):
        return False
    names = ["fontenc.sty", "textcomp.sty", "booktabs.sty", "graphicx.sty"]
    found = subprocess.run(["kpsewhich", *names], capture_output=True, check=False, timeout=120)
    return len(found.stdout.splitlines()) == len(names)


@pytest.mark.skipif(not tex_is_complete(), reason="no pdfLaTeX with booktabs and graphicx")
def test_hostile_names_are_set_as_text(tmp_path):
    ranks = {"ranks": (1, 2), "accuracy": (0.2, 0.5), "task": "50% of _ & \\task{}"}
    found = analyse([curve(name, **ranks) for name in HOSTILE])
    write_report(stored(found), found, tmp_path)
    (tmp_path / "paper.tex").write_text(DOCUMENT)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex"],
        cwd=tmp_path, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    log = done.stdout.decode("utf-8", "replace")
    assert done.returncode == 0, log[-2000:]
    assert not (tmp_path / "owned").exists()
    text = (tmp_path / "table.tex").read_text()
    assert not re.search(r"\\(input|write|immediate|end\{document)", text)
