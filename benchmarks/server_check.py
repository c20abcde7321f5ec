"""How often the check of a server is right, of honest servers and of servers that misbehave.

    python -m benchmarks.server_check [--seeds 5] [--adapters small lora …] [--dtypes bfloat16 …]

For each of five random models, five adapters (LoRA, DyLoRA and MatryoshkaLoRA of ranks 2 to 16) and
two precisions, the HTTP server of `tests/support/completions.py` answers in each of the ways of
`KINDS`: PEFT, one row after the other, with transformers' sdpa or eager attention. Each is one
check of the base and of two ranks, as before a run.

It fails if an honest server is refused, or if a dishonest one passes although the adapter changes
enough for such a mistake to be seen.
"""

# ruff: noqa: E402 - the tests are put on the path first

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

import torch

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "support")]

from harness_doubles import make_model, make_tokenizer, write_choice_task, write_text_task
from support.adapters import LLAMA_TARGETS, save_with_peft
from support.completions import Server

from aurac.adapters import load_adapter, save_adapter
from aurac.backends import check
from aurac.runs.backend_check import ask
from aurac.runs.inputs import load
from aurac.runs.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ADAPTERS: dict[str, tuple[str, int, list[str], bool]] = {  # method, rank, modules, rsLoRA
    "small": ("lora", 2, ["v_proj"], False),
    "lora": ("lora", 4, ["q_proj", "v_proj"], True),
    "wide": ("lora", 16, LLAMA_TARGETS, False),
    "dylora": ("dylora", 8, ["q_proj", "k_proj", "v_proj", "o_proj"], False),
    "matryoshka": ("matryoshka", 8, LLAMA_TARGETS, True),
}
DTYPES = ("bfloat16", "float16")
HONEST = ("honest", "honest, texts alone")
KINDS: dict[str, dict[str, Any]] = {  # how the server differs from an honest one
    "honest": {},
    "honest, texts alone": {"echoes": False},
    "ignored": {"scale": 0.0},
    "another rank": {"keeps_first": True},
    "scale 1.25": {"scale": 1.25},
    "scale 0.75": {"scale": 0.75},
    "half of the layers": {"without": ("layers.1.",)},
    "short texts": {"most_tokens": 2},
    "short prompts, texts alone": {"most_prompt": 48, "echoes": False},
    "sampled": {"samples": True},
}
SMALL = ("scale 1.25", "scale 0.75", "half of the layers")  # not seen of a small effect
COLUMNS = ("passed", "cannot be seen", "refused")


class Found(NamedTuple):
    """What came of one check: one of `COLUMNS`, and the results."""

    outcome: str
    results: list[check.CheckResult]

    @property
    def roundings(self) -> float:
        """How far log-probabilities of an adapter are off, at most; NaN of texts alone."""
        known = [each.distance for each in self.results[1:] if each.distance is not None]
        return max(known, default=math.nan)

    def wrong(self, kind: str) -> bool:
        """Whether an honest server was refused, or a dishonest one passed."""
        return self.outcome == ("refused" if kind in HONEST else "passed")


def model_of(seed: int) -> Any:
    """A random model that writes printable ASCII, which is the same in tokens and in text."""
    model, tokenizer = make_model(seed), make_tokenizer()
    shown = [tokenizer.convert_tokens_to_ids(chr(code)) for code in range(33, 127)]
    weight = model.get_output_embeddings().weight.data
    kept = weight[shown].clone()
    weight.zero_()
    weight[shown] = kept
    return model


def written(root: Path, seed: int, adapter: str) -> tuple[Path, list[str]]:
    """The folder of an adapter beside its base, and the files of two tasks."""
    method, rank, modules, rslora = ADAPTERS[adapter]
    base, mine = root / f"BASE{seed}", root / f"{adapter}{seed}"
    if not base.exists():
        model_of(seed).save_pretrained(base)
        make_tokenizer().save_pretrained(base)
    if not mine.exists():
        how = {"r": rank, "target_modules": modules, "use_rslora": rslora, "lora_alpha": rank}
        nested = {} if method == "lora" else {"nested_ranks": (1, 2, 4, 8)}
        save_with_peft(model_of(seed), root / "peft", seed=seed + 10, **how)
        save_adapter(load_adapter(root / "peft", method=method, base=str(base), **nested), mine)
    choice, text = write_choice_task(root / "tasks"), write_text_task(root / "tasks")
    mcc = "  - metric: mcc\n    aggregation: matthews_corrcoef\n    higher_is_better: true\n"
    choice.write_text(choice.read_text().replace(mcc, ""))
    return mine, [str(choice), str(text)]


def checks(
    root: Path, seed: int, adapter: str, dtype: str, kinds: Sequence[str]
) -> Iterator[tuple[str, Found]]:
    """Each kind of server with what is found; the engine answers once for all of them."""
    mine, tasks = written(root, seed, adapter)
    known: list[Any] = []
    answers = check.answers

    def once(*given: Any) -> Any:
        known[:] = known or answers(*given)
        return known

    with serving() as server, patch.object(check, "answers", once):
        server.base, server.dtype = lambda: model_of(seed), getattr(torch, dtype)
        server.attention = ("sdpa", "eager")[seed % 2]
        how = {"model": "local-completions", "model_args": {"base_url": server.url}}
        how |= {"dtype": dtype, "limit": 8, "device": "cpu", "out": root / "run"}
        inputs = load(Settings.of(mine, tasks, **how))
        [every] = inputs.cuts.values()
        cuts = [every[rank] for rank in (max(every), min(every))]
        usual = {name: vars(server)[name] for kind in KINDS.values() for name in kind}
        for kind in kinds:
            vars(server).update({**usual, **KINDS[kind]})
            server.models.clear()
            server.adapters.clear()
            vars(inputs.backend).pop("gives_logprobs", None)  # known of the kind before
            torch.manual_seed(seed)  # of a server that samples
            with inputs.backend as backend:
                backend.begin(cuts, logprobs=False)
                found = []
                for result in ask(inputs, cuts):
                    found.append(result)
                    if not result.right:  # where a run would end
                        break
            unseen = kind in SMALL and all(result.effect < check.SEEN for result in found[1:])
            right = COLUMNS[1] if unseen else COLUMNS[0]
            outcome = right if all(result.right for result in found) else COLUMNS[2]
            yield kind, Found(outcome, found)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """The misbehaving server, which answers in a thread."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Check every server, print the table, and fail where one is judged wrongly."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=[*ADAPTERS])
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    given = parser.parse_args()
    counts, wrong, began = Counter[tuple[str, str]](), 0, time.monotonic()
    roundings = defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=f"{folder}/hf")
        for case in itertools.product(range(1, given.seeds + 1), given.adapters, given.dtypes):
            for kind, found in checks(Path(folder), *case, given.kinds):
                counts[kind, found.outcome] += 1
                roundings[kind].append(found.roundings)
                if found.wrong(kind):
                    wrong += 1
                    print(
                        f"{kind} {found.outcome}: {case}", *found.results, sep="\n    ", flush=True
                    )
    print("| server |", " | ".join(COLUMNS), "| roundings |\n|---|", "---|" * 4, sep="")
    for kind in given.kinds:
        cells = [str(counts[kind, column]) for column in COLUMNS]
        far = sorted(roundings[kind])
        print(f"| {kind} |", " | ".join([*cells, f"{far[0]:.3g} to {far[-1]:.3g}"]), "|")
    print(f"{counts.total()} checks in {time.monotonic() - began:.0f} s, {wrong} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
