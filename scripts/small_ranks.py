"""Writes `reports/small_ranks/README.md` from what the study stores, and its reports.

python -m scripts.small_ranks
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from aurac.show.tabular import render_table
from aurac.study import Work, load_study
from aurac.study.design import groups_of, parts_of, tasks_of
from aurac.study.search import Trials

if TYPE_CHECKING:
    from aurac.show.tabular import Columns

STUDY = Path(__file__).parents[1] / "reports/small_ranks/study.yaml"
HEADS = ("base", "task", "method", "trials", "adapters")
TITLES = {"aurac_word_problems": "word problems", "mawps": "MAWPS"}

PAGE = """# Which way to a small rank?

**Not answered yet:** the table says what is there, and nothing is concluded from it.
[study.yaml](study.yaml) is the design, with hypotheses and what would refute each; it was committed
before its first training, and says what was changed since.

{there}

`search/` has the outcome of every example of the trials, `run/` that of the adapters of the seeds,
[trainings.jsonl](trainings.jsonl) losses, seconds, tokens and memory of each training (the machine
was shared, so the seconds are no measure). To go on, with the data of
[`scripts/study_data.py`](../../scripts/study_data.py) beside the file, in two processes of one
thread, which share the recipes and are half as fast again as one of two threads:

```bash
aurac study reports/small_ranks/study.yaml --out reports/small_ranks --dry-run
OMP_NUM_THREADS=1 aurac study reports/small_ranks/study.yaml --out reports/small_ranks    # twice
```
"""


def main() -> None:
    """Write the page."""
    work = Work(load_study(STUDY), STUDY, STUDY.parent)
    text = PAGE.format(there=render_table(there(work), "markdown"))
    STUDY.with_name("README.md").write_text(text, encoding="utf-8")


def there(work: Work) -> Columns:
    """Trials and adapters of each recipe: how many are there, of how many at least."""
    study, rows = work.study, []
    for part in parts_of(study):
        trials = Trials(work, part, dry=True)
        for group in groups_of(study):
            adapters = trials.run(group)
            for task in tasks_of(study, part):
                mine = [adapter for adapter in adapters if adapter.task == task]
                tried = trials.winners[group].trials[task] if group in trials.winners else ()
                found = sum(bool(scores) for _, scores in tried)
                open_ = sum((a.task, a.group) == (task, group) for a in trials.left)
                done = len(mine) - len(work.missing(part, mine))
                if mine:
                    row = [part.alias, TITLES[task], study.labels[group]]
                    rows.append(
                        [
                            *row,
                            f"{found} of {found + open_}" if found + open_ else "",
                            f"{done} of {len(mine)}",
                        ]
                    )
    return dict(zip(HEADS, map(list, zip(*rows, strict=True)), strict=True))


if __name__ == "__main__":
    main()
