"""What the engine does on a GPU, in one command: at most half an hour on one H100.

    python benchmarks/gpu.py --out gpu.md

Needs no network, no data and no base: all models are Llamas with random weights, with LoRA (R = 16)
on all projections. It writes a page of tables, one after another, so that what is there stays when
something fails or time runs out: the engine's answers in three dtypes beside the CPU's; scoring by
the engine and by lm-eval's ``HFLM`` with PEFT; writing by the engine and, where it is installed, by
vLLM as ``--model vllm`` runs it; training. ``--sections`` takes some of them, ``--pretended`` runs
all with tiny models on the tests' pretended device, to see that the program gets to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib.util
import json
import math
import random
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

RANK = 16
BATCHES = (16, 64, 256)  # of HFLM, whose best one counts
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FIELDS = (
    *("num_hidden_layers", "hidden_size", "num_attention_heads", "num_key_value_heads"),
    *("intermediate_size", "vocab_size"),
)


@dataclass(frozen=True)
class Scale:
    """How much is done; the shapes of the Llamas are in the order of `FIELDS`."""

    small: tuple[int, ...]  # for answers and training
    large: tuple[int, ...]  # for speed
    sequences: tuple[int, ...]
    prompt: int  # tokens
    new: int
    examples: int  # of scoring, of four choices each
    shots: int  # tokens before them


REAL = Scale(
    small=(8, 1024, 16, 4, 2816, 32_000),
    large=(32, 4096, 32, 8, 14_336, 128_256),  # Llama 3 8B
    sequences=(1, 16, 256),
    prompt=128,
    new=128,
    examples=200,
    shots=1500,
)
PRETENDED = Scale((2, 32, 4, 2, 48, 300), (3, 32, 4, 2, 48, 300), (1, 6), 9, 12, 6, 40)


def config_of(shape: tuple[int, ...]) -> Any:
    """The transformers config."""
    from transformers import LlamaConfig

    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    sizes = dict(zip(FIELDS, shape, strict=True))
    return LlamaConfig(max_position_embeddings=4096, **sizes, **ends)


@functools.cache
def tokenizer(vocabulary: int) -> Any:
    """A token for each word w1, w2 and so on."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<end>": 0, **{f"w{number}": number for number in range(1, vocabulary)}}
    made = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token="<end>", unk_token="<end>", pad_token="<end>"
    )


@functools.cache
def built(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Any:
    """A PEFT model, its factors in float32 as PEFT loads them."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    with torch.device(device):
        base = LlamaForCausalLM._from_config(config_of(shape), dtype=dtype)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=PROJECTIONS, inference_mode=True)
    model = get_peft_model(base, config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            torch.nn.init.normal_(parameter, std=1 / math.sqrt(max(parameter.shape)))
        elif parameter.dim() > 1:
            parameter.data.mul_(2)  # so that attention decides the answers
    return model.eval()


def texts_of(vocabulary: int, count: int, length: int, seed: int = 0) -> list[str]:
    """Texts of random words, one token each."""
    draw = random.Random(seed)
    return [
        " ".join(f"w{draw.randrange(1, vocabulary)}" for _ in range(length)) for _ in range(count)
    ]


def instances(kind: str, requests: list[Any]) -> list[Any]:
    """Requests as lm-eval makes them."""
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, request, i) for i, request in enumerate(requests)]


def prompts_of(vocabulary: int, count: int, scale: Scale) -> list[Any]:
    """Prompts to continue."""
    limit = {"until": [], "max_gen_toks": scale.new}
    texts = texts_of(vocabulary, count, scale.prompt)
    return instances("generate_until", [(text, limit) for text in texts])


def pairs_of(vocabulary: int, examples: int, scale: Scale) -> list[Any]:
    """Examples of four choices behind what all share."""
    (shared,) = texts_of(vocabulary, 1, scale.shots, seed=1)
    questions = texts_of(vocabulary, examples, 40, seed=2)
    choices = texts_of(vocabulary, 4 * examples, 5, seed=3)
    requests = [(f"{shared} {questions[i // 4]}", f" {choice}") for i, choice in enumerate(choices)]
    return instances("loglikelihood", requests)


def engine(model: Any) -> Any:
    """The engine around a PEFT model."""
    from aurac.engine.lm import EngineLM

    return EngineLM(model.base_model.model, tokenizer(model.config.vocab_size))


def seconds(run: Callable[[], Any], repeats: int = 1) -> float:
    """The least of a few runs, after one that warms up."""
    run()
    taken = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run()
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return min(taken)


def table(*rows: tuple[Any, ...]) -> str:
    """Rows, the first of which is the head, as Markdown."""
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *body])


def answers(scale: Scale) -> str:
    """The engine's answers on the device beside its own on the CPU in float32."""
    vocabulary = scale.small[-1]
    pairs, prompts = pairs_of(vocabulary, 24, scale), prompts_of(vocabulary, 16, scale)
    expected = engine(built(scale.small, torch.float32, "cpu"))
    right = expected.loglikelihood(pairs), expected.generate_until(prompts)
    rows = [("dtype", "log-likelihoods within", "greedy hits that differ", "texts that differ")]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = built.__wrapped__(scale.small, torch.float32, "cpu")
        for name, parameter in model.named_parameters():
            if "lora_" not in name:
                parameter.data = parameter.data.to(dtype)
        lm = engine(model.cuda())
        mine = lm.loglikelihood(pairs), lm.generate_until(prompts)
        both = list(zip(mine[0], right[0], strict=True))
        gap = max(abs(a - b) for (a, _), (b, _) in both)
        hits = sum(a != b for (_, a), (_, b) in both)
        apart = sum(a != b for a, b in zip(mine[1], right[1], strict=True))
        told = str(dtype).removeprefix("torch.")
        rows.append((told, f"{gap:.1e}", f"{hits} of {len(both)}", f"{apart} of {len(prompts)}"))
    return table(*rows)


def scoring(scale: Scale) -> str:
    """Log-likelihoods by the engine, and by HFLM with PEFT at its best batch size."""
    from lm_eval.models.huggingface import HFLM

    model = built(scale.large, torch.bfloat16, "cuda")
    lm, words = engine(model), tokenizer(scale.large[-1])
    pairs = pairs_of(scale.large[-1], scale.examples, scale)

    def ours() -> None:
        lm.forget()
        lm.loglikelihood(pairs)

    theirs = []
    for size in BATCHES:
        other = HFLM(pretrained=model.base_model.model, tokenizer=words, batch_size=size)
        ask = functools.partial(other.loglikelihood, pairs, disable_tqdm=True)
        with contextlib.suppress(torch.OutOfMemoryError):
            theirs.append((seconds(ask), size))
    taken, best = min(theirs)
    head = ("requests", "aurac, s", "HFLM with PEFT, s")
    return table(head, (len(pairs), f"{seconds(ours, 3):.2f}", f"{taken:.2f} (batch {best})"))


def writing(scale: Scale) -> str:
    """Greedy texts by the engine, and by vLLM with an adapter of the same rank."""
    model = built(scale.large, torch.bfloat16, "cuda")
    prompts = {count: prompts_of(scale.large[-1], count, scale) for count in scale.sequences}
    lm = engine(model)
    ours = {
        count: seconds(functools.partial(lm.generate_until, asked))
        for count, asked in prompts.items()
    }
    torch.cuda.empty_cache()  # for vLLM's process
    theirs = dict.fromkeys(prompts, "not installed")
    if importlib.util.find_spec("vllm"):
        other = vllm(model, scale)
        for count, asked in prompts.items():
            taken = seconds(functools.partial(other.generate_until, asked, disable_tqdm=True))
            theirs[count] = f"{taken:.2f}"
    rows = [(count, f"{ours[count]:.2f}", theirs[count]) for count in prompts]
    return table(("prompts", "aurac, s", "vLLM, s"), *rows)


def vllm(model: Any, scale: Scale) -> Any:
    """lm-eval's own ``vllm`` for this adapter, as ``--model vllm`` opens it, on random weights."""
    from aurac.backends.lm_eval_models import model_class

    folder = Path(tempfile.mkdtemp())
    model.config.save_pretrained(folder / "base")
    tokenizer(scale.large[-1]).save_pretrained(folder / "base")
    model.save_pretrained(folder / "adapter", save_embedding_layers=False)
    return model_class("vllm")(
        pretrained=str(folder / "base"), load_format="dummy", dtype="bfloat16", max_model_len=4096,
        lora_local_path=str(folder / "adapter"), max_lora_rank=RANK, batch_size="auto",
        gpu_memory_utilization=0.7,
    )  # fmt: skip


def training(scale: Scale) -> str:
    """Steps of each method on a small model, beside the CPU's losses for the first ones."""
    from transformers import LlamaForCausalLM

    from aurac.training.job import train
    from aurac.training.recipe import make_recipe

    folder, vocabulary = Path(tempfile.mkdtemp()), scale.small[-1]
    torch.manual_seed(0)
    LlamaForCausalLM(config_of(scale.small)).save_pretrained(folder / "base")
    tokenizer(vocabulary).save_pretrained(folder / "base")
    words = texts_of(vocabulary, 64, 2 * scale.prompt)
    documents = [{"question": text, "answer": text.split()[0]} for text in words]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents))
    rows = [("method", "first loss", "on the CPU", "s")]
    for method in ("lora", "dylora", "matryoshka"):
        losses = {}
        for device in ("cpu", "cuda"):
            recipe = make_recipe(
                {
                    "name": method, "method": method, "rank": RANK, "steps": 10, "batch_size": 8,
                    "base": str(folder / "base"), "data": str(folder / "data.jsonl"),
                    "learning_rate": 1e-3, "dtype": "float32",
                }
            )  # fmt: skip
            done = train(recipe, folder / f"{method}-{device}", device=device)
            losses[device] = done.losses[0][1]
        told = f"{losses['cuda']:.4f}", f"{losses['cpu']:.4f}"
        rows.append((method, *told, f"{done.seconds:.1f}"))
    return table(*rows)


SECTIONS = {
    "Answers beside the CPU's": answers,
    "Scoring": scoring,
    "Writing": writing,
    "Training": training,
}


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", help="file of the page")
    parser.add_argument("--sections", help="numbers from 1, comma-separated")
    parser.add_argument("--pretended", action="store_true", help="tiny, on the pretended device")
    args = parser.parse_args()
    if args.pretended:
        sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
        import accelerator

        accelerator.install()
    elif not torch.cuda.is_available():
        parser.error("there is no CUDA device; --pretended shows what would be done")
    scale = PRETENDED if args.pretended else REAL
    names = list(SECTIONS)
    chosen = [names[int(n) - 1] for n in args.sections.split(",")] if args.sections else names
    where = torch.cuda.get_device_name(0)
    page = [f"# On {where}\n\ntorch {torch.__version__}, Llama of {scale.large}\n"]
    failed = False
    for name in chosen:
        began = time.perf_counter()
        try:
            body = SECTIONS[name](scale)
        except Exception:  # noqa: BLE001 - the other sections are wanted all the same
            body, failed = f"```\n{traceback.format_exc()}```", True
        page.append(f"## {name}\n\n{body}\n\n({time.perf_counter() - began:.0f} s)\n")
        print(page[-1], flush=True)
        if args.out:
            Path(args.out).write_text("\n".join(page))
    sys.exit(failed)


if __name__ == "__main__":
    main()
