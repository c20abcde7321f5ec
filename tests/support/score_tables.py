"""A table of outcomes as a user brings it to `aurac score`, and the command run on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from click.testing import CliRunner

from aurac.cli import cli

if TYPE_CHECKING:
    from pathlib import Path

RANKS = (1, 2, 4, 8)


def outcomes_table(folder: Path) -> Path:
    """Two adapters on 300 documents, the second one better, in long form."""
    draw = np.random.default_rng(0)
    hard = draw.standard_normal(300)
    lines = ["adapter,task,rank,doc_id,score"]
    for name, shift in (("lora", 0.0), ("matryoshka", 0.4)):
        for k, rank in enumerate(RANKS):
            noise = draw.standard_normal(300)
            right = 0.95 * hard + 0.3 * noise + shift + 0.1 * min(k, 2) > 0
            lines += [f"{name},gsm8k,{rank},d{d},{int(x)}" for d, x in enumerate(right)]
    path = folder / "outcomes.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def run(*arguments: object, code: int = 0) -> str:
    """What a command prints, with the exit code that is expected."""
    given = [str(a) for a in arguments]
    result = CliRunner().invoke(cli, given, catch_exceptions=False, standalone_mode=False)
    assert (result.return_value or 0) == code, result.output
    return result.stdout
