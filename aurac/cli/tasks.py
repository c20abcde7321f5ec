"""`aurac tasks`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from aurac.cli._analysis import table
from aurac.cli.options import complete_tasks, print_json

if TYPE_CHECKING:
    from aurac.tasks.index import TaskFacts

_SHOWN = 30
_ASKS = {"multiple_choice": "choose", "generate_until": "write", "loglikelihood": "continue"}


@click.command()
@click.argument("name", required=False, metavar="[NAME|WORD]", shell_complete=complete_tasks)
@click.option(
    "--include-path",
    type=click.Path(exists=True, file_okay=False),
    help="A folder with further tasks, as lm-eval's YAML.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tasks(name: str | None, include_path: str | None, *, as_json: bool) -> None:
    """List the bundled tasks, search lm-eval's, or show what one needs. Nothing is fetched.

    Of a bundled task the files of its documents are printed. Every task that lm-eval knows can be
    given to `aurac compare`.

    \b
    aurac tasks
    aurac tasks arc
    aurac tasks mmlu_*
    aurac tasks gsm8k
    aurac tasks aurac_word_problems
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.tasks import BUNDLED, documents
    from aurac.tasks.index import check_names, facts_of, search, task_index

    if name in BUNDLED:
        files = {split: str(path) for split, path in documents(name).items()}
        if as_json:
            print_json(files)
        else:
            click.echo("\n".join(f"{split}  {path}" for split, path in files.items()))
        return
    names = search(name, include_path) if name else list(BUNDLED)
    if name in names:
        names = [name, *facts_of(name, include_path).members]
    elif name and not names:
        check_names([name], include_path)
    facts = [facts_of(each, include_path) for each in (names if as_json else names[:_SHOWN])]
    if as_json:
        print_json([row._asdict() for row in facts])
        return
    head = ["task", "asks to", "few-shot", "documents", "data", "cost"]
    click.echo(table(head, map(_row, facts)))
    if len(names) > _SHOWN:
        click.echo(f"and {len(names) - _SHOWN} more; --json lists all")
    if name is None:
        click.echo(f"aurac tasks WORD searches the {len(task_index())} names that lm-eval knows")


def _row(task: TaskFacts) -> list[str]:
    if task.kind in ("GROUP", "TAG"):
        return [task.name, f"{task.kind.lower()} of {len(task.members)}", "", "", "", ""]
    if task.kind == "PY_TASK":
        return [task.name, "defined in Python", "", "", "", ""]
    if task.refused:
        return [task.name, f"not evaluated: {task.refused}", "", "", task.data or "", ""]
    cost = f"writes up to {task.writes} tokens each" if task.writes else "reads only"
    return [
        task.name,
        _ASKS.get(task.output_type or "", task.output_type or ""),
        str(task.num_fewshot),
        "not known here" if task.documents is None else str(task.documents),
        f"{task.data}, {task.split}" if task.split else task.data or "",
        cost,
    ]
