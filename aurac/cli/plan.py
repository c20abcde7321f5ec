"""`aurac plan`: how many examples and seeds find a difference."""

from __future__ import annotations

from dataclasses import asdict

from aurac.cli.options import as_table, command, numbers, options, parsed, print_result


@command(short="difference flip-rate sd seeds seed-sd json")
@options(
    """
    --difference FLOAT: The difference of two AURACs to be found, a fraction such as 0.02.
    --flip-rate FLOAT: Share of examples whose outcome differs between the two adapters.
    --sd FLOAT: Or the sd over examples of the paired difference.
    --seeds [1,3,5]: Training seeds of each recipe.
    --seed-sd FLOAT [0]: Sd over training seeds of one recipe's AURAC.
    --alpha FLOAT [0.05]: Error rate of the family.
    --power FLOAT [0.8]: Chance to find it.
    --comparisons INTEGER>=1 [1]: Differences in the family.
    --json
    """,
    difference={"required": True},
    seeds=parsed(numbers("--seeds", "1,3,5")),
)
def plan(
    *,
    difference: float,
    flip_rate: float | None,
    sd: float | None,
    seeds: tuple[int, ...],
    seed_sd: float,
    alpha: float,
    power: float,
    comparisons: int,
    as_json: bool,
) -> None:
    """How many examples and seeds find a difference between two adapters.

    \b
    aurac plan --difference 0.02 --flip-rate 0.15
    """  # noqa: D301 - click's mark for lines that stay as they are
    from aurac.stats.power import plan as plan_examples

    rows = plan_examples(
        difference,
        flip_rate=flip_rate,
        sd=sd,
        seeds=seeds,
        seed_sd=seed_sd,
        alpha=alpha,
        power=power,
        comparisons=comparisons,
    )
    head = ["seeds of each recipe", "examples"]
    body = [
        [str(x.seeds), "none suffice" if x.examples is None else f"{x.examples:,}"] for x in rows
    ]
    text = (
        f"Examples to find a difference of {100 * difference:g} points:\n\n{as_table(head, body)}"
    )
    print_result([asdict(row) for row in rows], text, as_json=as_json)
