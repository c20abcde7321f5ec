"""PEFT's energy thresholds beside uniform ranks at the same size; prints a Markdown table.

    python benchmarks/peft_conversion.py adapters_zoo/word_problems/lora --limit 100 --out FOLDER

PEFT's ``convert_to_lora`` with a threshold keeps, in each layer, the fewest singular directions
that hold that share of the squared singular values. Beside each such adapter stand SVD at the
smallest uniform rank that is not smaller, and ``--basis energy`` at that rank's budget. All answer
the same documents; differences are paired, with 95 % intervals.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import aurac
from aurac.stats.paired import difference

if TYPE_CHECKING:
    from collections.abc import Sequence

TASK = "aurac_word_problems"


def convert(source: Path, thresholds: Sequence[float], out: Path) -> dict[float, Path]:
    """Threshold → the folder of what PEFT makes of the adapter as it is evaluated at its rank."""
    from peft import PeftModel, save_as_lora

    from aurac.models.base import load_base

    adapter = aurac.load_adapter(source)
    full = aurac.save_adapter(aurac.truncate(adapter, adapter.rank), out / "full", force=True)
    model = PeftModel.from_pretrained(
        load_base(str(adapter.base), dtype="float32").model, str(full)
    )
    folders = {share: out / f"energy-{share:g}" for share in thresholds}
    for share, folder in folders.items():
        if not folder.exists():
            save_as_lora(folder, model, rank=share)
    return folders


def main() -> None:
    """Convert, evaluate, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("adapter", type=Path)
    parser.add_argument("--thresholds", default="0.9,0.97")
    parser.add_argument("--limit", type=int, default=100)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    shares = [float(share) for share in args.thresholds.split(",")]
    adapter = aurac.load_adapter(args.adapter)
    ranks, theirs = {}, {}
    for share, folder in convert(args.adapter, shares, args.out).items():
        peft = aurac.load_adapter(folder, base=adapter.base)
        size = peft.parameters(peft.rank)
        ranks[share] = next(r for r in range(1, 1 + adapter.rank) if adapter.parameters(r) >= size)
        theirs[share] = evaluate(folder, args, base=adapter.base, ranks=[peft.rank])["prefix"]
    uniform = evaluate(args.adapter, args, basis=("svd", "energy"), ranks=sorted(ranks.values()))
    print("| way | parameters | accuracy, % | minus uniform rank, points [95 %] |")
    print("|---|---|---|---|")
    for share, rank in ranks.items():
        same = uniform["svd"].at([rank])
        row(f"SVD, uniform rank {rank}", same, rank)
        row(f"PEFT, threshold {share:g}", theirs[share], theirs[share].ranks[0], same)
        row(f"`energy` at rank {rank}", uniform["energy"], rank, same)


def evaluate(checkpoint: Path, args: argparse.Namespace, **options: Any) -> dict[str, aurac.Curve]:
    """Basis → the curve; the base is evaluated once for all."""
    out = args.out / "run"
    done = aurac.compare([checkpoint], [TASK], out=out, limit=args.limit, **options)
    return {str(curve.basis): curve for curve in done.curves}


def row(name: str, curve: aurac.Curve, rank: int, uniform: aurac.Curve | None = None) -> None:
    """One line of the table; `uniform` is at one rank."""
    scores = curve.at([rank]).outcomes
    cells = [name, f"{curve.parameters[rank]:,}", f"{100 * np.mean(scores):.1f}", ""]
    if uniform is not None:
        assert uniform.doc_ids == curve.doc_ids
        gap = difference(uniform.outcomes, scores).estimate
        ends = ", ".join(f"{100 * end:.1f}" for end in (gap.low, gap.high) if end is not None)
        cells[-1] = f"{100 * gap.value:.1f} [{ends}]"
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
