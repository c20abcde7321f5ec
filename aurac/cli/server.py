"""`aurac check-server`: whether a server computes an adapter at every rank."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from aurac.cli import shared
from aurac.cli.shared import command

if TYPE_CHECKING:
    from aurac.backends.check import Verdict

PROMPTS = 20


@command(
    name="check-server",
    epilog="Exit codes: 0 done, 2 bad input, 3 the server does not answer, 4 a rank is not "
    "computed as it should be, 130 interrupted.",
)
@click.argument("url")
@click.argument("checkpoint", metavar="ADAPTER")
@click.option(
    "--ranks",
    default="pow2",
    show_default=True,
    metavar="pow2|all|1,2,4",
    help="Ranks to check.",
)
@click.option("--model", metavar="NAME", help="The base's name on the server. Default: its first.")
@click.option("--base", help="Base model, if another than the adapter records.")
@click.option("--dtype", help="That of the server. Default: of the base's files, or bfloat16.")
@shared.as_json
def check_server(
    url: str,
    checkpoint: str,
    ranks: str,
    model: str | None,
    base: str | None,
    dtype: str | None,
    as_json: bool,
) -> int:
    """Hold a server's answers for an adapter at each rank against aurac's engine in float32.

    The server has OpenAI's completions (vLLM: VLLM_ALLOW_RUNTIME_LORA_UPDATING=1) and reads the
    folders in which the ranks are written. The base is loaded here, on the CPU.

    \b
    aurac check-server http://localhost:8000 my_adapter
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.errors import UsageError
    from aurac.models import cache_root
    from aurac.runs.check import verdicts as verdicts_of
    from aurac.runs.inputs import load
    from aurac.runs.settings import Settings

    arguments: dict[str, Any] = {"base_url": url, **({"model": model} if model else {})}
    words = {"base": base, "dtype": dtype, "out": cache_root() / "check"}
    inputs = load(
        Settings.of(
            checkpoint, "aurac_word_problems", limit=PROMPTS, ranks=ranks, device="cpu",
            model="local-completions", model_args=arguments, **words,
        )
    )  # fmt: skip
    backend = inputs.backend
    backend.begin(inputs.cuts, scores=False)
    scores, verdicts = backend.scores, []
    for verdict in verdicts_of(inputs, inputs.cuts, PROMPTS):
        verdicts.append(verdict)
        if not as_json:
            click.echo(_line(verdict, "nats" if scores else "of the texts"))
    if not verdicts:
        raise UsageError("the base does not fit this machine in float32, so nothing was checked")
    if as_json:
        rows = [asdict(verdict) for verdict in verdicts]
        shared.print_json({"server": backend.version, "prompt_logprobs": scores, "ranks": rows})
    elif not scores:
        click.echo("no log-probabilities of the prompt: multiple choice cannot be evaluated")
    return 0 if all(verdict.right for verdict in verdicts) else 4


def _line(verdict: Verdict, unit: str) -> str:
    """A verdict with what it rests on."""
    name = f"rank {verdict.rank}" if verdict.rank else "base"
    told = {"": verdict.distance, "rounding ": verdict.noise, "the adapter ": verdict.effect}
    numbers = ", ".join(f"{what}{x:.3g}" for what, x in told.items() if x is not None)
    return f"{name}: {verdict.says}" + (f" ({unit}: {numbers})" if numbers else "")
