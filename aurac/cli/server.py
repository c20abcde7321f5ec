"""`aurac check-server`: whether a server computes an adapter at every rank."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from aurac.cli import shared
from aurac.cli.shared import command, pair


@command(
    name="check-server",
    epilog="Exit codes: 0 done, 2 bad input, 3 the server does not answer, 4 a rank is not "
    "computed as it should be, 130 interrupted.",
)
@click.argument("url")
@click.argument("checkpoint", metavar="ADAPTER")
@click.option(
    "--ranks", default="pow2", show_default=True, metavar="pow2|all|1,2,4",
    help="Ranks to check; pow2: 1, 2, 4, 8, …",
)  # fmt: skip
@click.option(
    "--served-name", "names", type=pair, multiple=True, metavar="NAME=RANK",
    help="The server has this rank already, under this name: check it and load nothing.",
)  # fmt: skip
@click.option(
    "--model", metavar="NAME", help="Name of the base on the server. Default: its first model."
)
@click.option("--base", help="Base model. Default: the one that the adapter records.")
@click.option("--dtype", help="Precision of the server. Default: of the base's files, or bfloat16.")
@click.option(
    "--prompts", type=click.IntRange(1), default=20, show_default=True, metavar="N",
    help="Prompts to ask.",
)  # fmt: skip
@click.option(
    "--timeout", type=click.IntRange(1), default=30, show_default=True, metavar="SECONDS",
    help="How long to wait for a reply; a request is tried three times.",
)  # fmt: skip
@shared.as_json
def check_server(
    url: str,
    checkpoint: str,
    ranks: str,
    names: tuple[tuple[str, str], ...],
    model: str | None,
    prompts: int,
    timeout: int,
    as_json: bool,
    **words: Any,
) -> int:
    """Check that a server computes an adapter at every rank.

    Its answers are compared with those of aurac's own engine, for which the base is loaded here, on
    the GPU if one has room for it, in the precision of the server. The server offers OpenAI's
    completions and can read the folders in which the ranks are written; start vLLM with
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1.

    \b
    aurac check-server http://localhost:8000 my_adapter
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.backends.server import ServerBackend
    from aurac.errors import UsageError
    from aurac.models import cache_root
    from aurac.runs.check import verdicts as verdicts_of
    from aurac.runs.inputs import load
    from aurac.runs.settings import Settings

    ranks = ",".join(rank for _, rank in names) or ranks
    arguments: dict[str, Any] = {"base_url": url, "timeout": timeout}
    arguments |= {"model": model} if model else {}
    words |= {"ranks": ranks, "out": cache_root() / "check"}
    words |= {"model": "local-completions", "model_args": arguments}
    inputs = load(Settings.of(checkpoint, "aurac_word_problems", **words))
    listed = None if ranks in ("pow2", "all") else {int(rank) for rank in ranks.split(",")}
    every = [cut for cuts in inputs.cuts.values() for cut in cuts.values()]
    cuts = [cut for cut in every if listed is None or cut.rank in listed]
    verdicts = []
    with inputs.backend as backend:
        assert isinstance(backend, ServerBackend)  # noqa: S101 - of this model
        backend.names = {int(rank): name for name, rank in names}
        backend.begin(cuts, scores=False)
        found = verdicts_of(inputs, cuts, prompts)
        for what in ("the base", *(f"rank {cut.rank}" for cut in cuts)):
            click.echo(f"{prompts} prompts for {what} …", err=True)
            if (verdict := next(found, None)) is None:
                raise UsageError("the base does not fit this machine: nothing is known")
            verdicts.append(verdict)
            if not as_json:
                click.echo(str(verdict))
        if as_json:
            about = {"server": backend.version, "prompt_logprobs": backend.scores}
            shared.print_json({**about, "ranks": [asdict(verdict) for verdict in verdicts]})
        elif not backend.scores:
            click.echo(
                "no log-probabilities of the prompt: multiple choice cannot be evaluated, and a "
                "wrong scale or a module that is left out may not be seen"
            )
    return 0 if all(verdict.right for verdict in verdicts) else 4
