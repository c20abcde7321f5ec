"""What the engine does on a GPU, in one command: at most half an hour on one H100.

    python benchmarks/gpu.py --out gpu.md

Needs no network, no data and no base: all models are Llamas with random weights, with LoRA (R = 16)
on all projections. It writes a page of tables, one after another, so that what is there stays when
something fails or time runs out: the answers in three dtypes beside the CPU's; decoding with graphs
and without, at 1 to 256 sequences, and the share of the base's matrix products; scoring; lm-eval's
``HFLM`` with PEFT and, where it is installed, vLLM on the same prompts; what happens when memory is
short; training. ``--sections`` takes some of them, ``--pretended`` runs it with tiny models on the
tests' pretended device, to see that it gets to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import math
import random
import statistics
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Request = tuple[str, dict[str, Any]]

RANK = 16
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Shape:
    """A Llama's sizes."""

    layers: int
    hidden: int
    heads: int
    kv: int
    inner: int
    vocabulary: int


@dataclass(frozen=True)
class Scale:
    """How much is done."""

    small: Shape  # for answers and training
    large: Shape  # for speed
    sequences: tuple[int, ...]
    prompt: int  # tokens
    new: int
    examples: int  # of scoring, of four choices each
    shots: int  # tokens before them


LLAMA_8B = Shape(32, 4096, 32, 8, 14_336, 128_256)
REAL = Scale(
    Shape(8, 1024, 16, 4, 2816, 32_000), LLAMA_8B, (1, 4, 16, 64, 256), 128, 128, 200, 1500
)
PRETENDED = Scale(Shape(2, 32, 4, 2, 48, 300), Shape(3, 32, 4, 2, 48, 300), (1, 6), 9, 12, 6, 40)
BATCHES = (16, 64, 256)  # of HFLM


def config_of(shape: Shape) -> Any:
    """The transformers config."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )


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


def built(shape: Shape, dtype: torch.dtype, device: str, *, scale: float = 1.0) -> Any:
    """A model with LoRA in it, its factors in float32 as PEFT loads them."""
    from peft import LoraConfig, inject_adapter_in_model
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = LlamaForCausalLM(config_of(shape))
    finally:
        torch.set_default_dtype(default)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(PROJECTIONS))
    inject_adapter_in_model(config, model, adapter_name="a")
    model.requires_grad_(requires_grad=False)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
            torch.nn.init.normal_(parameter, std=1 / math.sqrt(max(parameter.shape)))
        elif parameter.dim() > 1:
            parameter.data.mul_(scale)
    return model.eval()


def texts_of(shape: Shape, count: int, length: int, seed: int = 0) -> list[str]:
    """Texts of random words, one token each."""
    draw = random.Random(seed)
    return [
        " ".join(f"w{draw.randrange(1, shape.vocabulary)}" for _ in range(length))
        for _ in range(count)
    ]


def writing(shape: Shape, count: int, scale: Scale, new: int | None = None) -> list[Request]:
    """Prompts to continue by so many tokens."""
    limit = {"until": [], "max_gen_toks": new or scale.new}
    return [(text, limit) for text in texts_of(shape, count, scale.prompt)]


def scoring(shape: Shape, scale: Scale) -> list[tuple[str, str]]:
    """Examples of four choices behind what all share."""
    (shared,) = texts_of(shape, 1, scale.shots, seed=1)
    questions = texts_of(shape, scale.examples, 40, seed=2)
    choices = texts_of(shape, 4 * scale.examples, 5, seed=3)
    return [
        (f"{shared} {question}", f" {choice}")
        for i, question in enumerate(questions)
        for choice in choices[4 * i : 4 * i + 4]
    ]


def instances(kind: str, requests: list[Any]) -> list[Any]:
    """Requests as lm-eval makes them."""
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, request, i) for i, request in enumerate(requests)]


def engine(model: Any, **limits: Any) -> Any:
    """The engine around a model."""
    from aurac.engine.lm import EngineLM

    return EngineLM(model, tokenizer(model.config.vocab_size), **limits)


def seconds(run: Callable[[], Any], repeats: int = 3) -> float:
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


def products(model: Any, tokens: int, logits: int) -> float:
    """Seconds of the base's matrix products alone."""
    layers = [
        (module, logits if name == "lm_head" else tokens)
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and ".lora_" not in name
    ]
    weight = model.lm_head.weight
    inputs = {
        (count, module.in_features): weight.new_ones(count, module.in_features)
        for module, count in layers
    }

    def run() -> None:
        for module, count in layers:
            torch.nn.functional.linear(inputs[count, module.in_features], module.weight)

    with torch.inference_mode():
        return seconds(run)


def table(*rows: tuple[Any, ...]) -> str:
    """Rows, the first of which is the head, as Markdown."""
    head, *body = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([head, f"|{'---|' * len(rows[0])}", *body])


def answers(scale: Scale) -> str:
    """The engine's answers on the device beside its own on the CPU in float32."""
    shape = scale.small
    pairs = instances("loglikelihood", scoring(shape, scale)[:96])
    prompts = instances("generate_until", writing(shape, 16, scale))
    expected = engine(built(shape, torch.float32, "cpu", scale=2.0))
    right = expected.loglikelihood(pairs), expected.generate_until(prompts)
    rows = [("dtype", "log-likelihoods within", "greedy hits that differ", "texts that differ")]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = built(shape, torch.float32, "cpu", scale=2.0)
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


@contextlib.contextmanager
def passes_of(decoder: type) -> Iterator[list[float]]:
    """Seconds of the decoding passes in this block; each ends with the host waiting for it."""
    taken: list[float] = []
    whole = decoder._advance  # type: ignore[attr-defined]

    def advance(self: Any) -> None:
        began = time.perf_counter()
        whole(self)
        taken.append(time.perf_counter() - began)

    decoder._advance = advance  # type: ignore[attr-defined]
    try:
        yield taken
    finally:
        decoder._advance = whole  # type: ignore[attr-defined]


def decoding(scale: Scale) -> str:
    """Milliseconds of a decoding pass with graphs and without, and the products' share."""
    from aurac.engine import graphs
    from aurac.engine.decoding import Decoder

    model = large(scale)
    rows = [("sequences", "eager, ms", "graphs, ms", "tokens/s", "products, ms", "share")]
    for count in scale.sequences:
        prompts = instances("generate_until", writing(scale.large, count, scale))
        taken = []
        for eager in (True, False):
            before, graphs._EAGER = graphs._EAGER, 10**9 if eager else 3
            lm = engine(model)
            lm.generate_until(prompts[:1])
            with passes_of(Decoder) as passes:
                lm.generate_until(prompts)
            graphs._EAGER = before
            taken.append(statistics.median(passes))
        alone, best = products(model, count, count), min(taken)
        times = (f"{1e3 * part:.2f}" for part in (*taken, alone))
        eager, graph, product = times
        rows.append((count, eager, graph, f"{count / best:.0f}", product, f"{alone / best:.2f}"))
    return table(*rows)


def scores(scale: Scale) -> str:
    """Scoring behind a shared beginning, and the products' share."""
    model, lm = large(scale), engine(large(scale))
    pairs = instances("loglikelihood", scoring(scale.large, scale))
    shapes: list[tuple[int, int]] = []
    hook = model.register_forward_hook(
        lambda _m, _a, kwargs, out: shapes.append(
            (kwargs["input_ids"].shape[1], out.logits.shape[1])
        ),
        with_kwargs=True,
    )

    def run() -> None:
        lm.forget()
        shapes.clear()
        lm.loglikelihood(pairs)

    taken = seconds(run)
    hook.remove()
    alone = sum(products(model, *shape) for shape in list(shapes))
    tokens = sum(count for count, _ in shapes)
    head = ("requests", "passes", "tokens", "s", "tokens/s", "share of products")
    told = f"{taken:.2f}", f"{tokens / taken:.0f}", f"{alone / taken:.2f}"
    return table(head, (len(pairs), len(shapes), tokens, *told))


def rivals(scale: Scale) -> str:
    """The engine beside HFLM with PEFT at its best batch size, and vLLM, on the same prompts."""
    from lm_eval.models.huggingface import HFLM

    model, count = large(scale), scale.sequences[-1]
    prompts = instances("generate_until", writing(scale.large, count, scale))
    pairs = instances("loglikelihood", scoring(scale.large, scale)[:200])
    rows = [("who", "writing, s", "scoring, s")]
    lm = engine(model)

    def scored() -> None:
        lm.forget()
        lm.loglikelihood(pairs)

    rows.append(
        ("aurac", f"{seconds(lambda: lm.generate_until(prompts), 1):.2f}", f"{seconds(scored):.2f}")
    )
    best = {"generate_until": (math.inf, 0), "loglikelihood": (math.inf, 0)}
    for size in BATCHES:
        other = HFLM(pretrained=model, tokenizer=tokenizer(scale.large.vocabulary), batch_size=size)
        for kind, asked in (("generate_until", prompts), ("loglikelihood", pairs)):
            ask = functools.partial(getattr(other, kind), asked, disable_tqdm=True)
            with contextlib.suppress(torch.OutOfMemoryError):
                best[kind] = min(best[kind], (seconds(ask, 1), size))
    told = [f"{taken:.2f} (batch {size})" for taken, size in best.values()]
    rows.append(("HFLM with PEFT", *told))
    rows.append(("vLLM", *with_vllm(scale, [text for text, _ in (p.args for p in prompts)])))
    return table(*rows)


def with_vllm(scale: Scale, prompts: list[str]) -> tuple[str, str]:
    """Seconds of vLLM for the same prompts, with a LoRA adapter of the same rank."""
    try:
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest
    except ImportError:
        return "not installed", ""
    large.cache_clear()
    torch.cuda.empty_cache()
    folder = Path(tempfile.mkdtemp())
    config_of(scale.large).save_pretrained(folder / "base")
    tokenizer(scale.large.vocabulary).save_pretrained(folder / "base")
    save_adapter_of(scale.large, folder / "adapter")
    llm = LLM(
        str(folder / "base"), load_format="dummy", enable_lora=True, max_lora_rank=RANK,
        max_num_seqs=scale.sequences[-1], dtype="bfloat16", max_model_len=4096,
    )  # fmt: skip
    how = SamplingParams(temperature=0, max_tokens=scale.new, ignore_eos=True)
    adapter = LoRARequest("a", 1, str(folder / "adapter"))

    def write() -> None:
        llm.generate(prompts, how, lora_request=adapter, use_tqdm=False)

    return f"{seconds(write, 1):.2f}", ""


def save_adapter_of(shape: Shape, folder: Path) -> None:
    """A random adapter for a model of this shape, as PEFT saves one."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(config_of(shape))
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(PROJECTIONS))
    adapted = get_peft_model(model, config)
    state = {
        name.replace(".default", ""): torch.randn(parameter.shape, dtype=torch.bfloat16) / 100
        for name, parameter in adapted.named_parameters()
        if "lora_" in name
    }
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    adapted.peft_config["default"].save_pretrained(folder)
    save_file(state, folder / "adapter_model.safetensors")


@contextlib.contextmanager
def little_memory(scale: Scale) -> Iterator[None]:
    """Leave the device a gigabyte; on the pretended device let some allocations fail."""
    if scale is PRETENDED:
        import accelerator

        with accelerator.failing(300, times=2):
            yield
        return
    torch.cuda.empty_cache()
    ballast = torch.empty(
        max(torch.cuda.mem_get_info()[0] - (1 << 30), 0), dtype=torch.uint8, device="cuda"
    )
    yield
    del ballast


def memory(scale: Scale) -> str:
    """The same answers when memory is short, with budgets made when it was not."""
    model, count = large(scale), scale.sequences[-1]
    prompts = instances("generate_until", writing(scale.large, count, scale))
    pairs = instances("loglikelihood", scoring(scale.large, scale))
    lm = engine(model)
    whole = lm.generate_until(prompts), lm.loglikelihood(pairs)
    lm = engine(model)
    with little_memory(scale):
        less = lm.generate_until(prompts), lm.loglikelihood(pairs)
    apart = sum(a != b for a, b in zip(whole[0], less[0], strict=True))
    gap = max(abs(a - b) for (a, _), (b, _) in zip(whole[1], less[1], strict=True))
    head = ("texts that differ", "log-likelihoods within", "budgets in the end")
    return table(head, (f"{apart} of {count}", f"{gap:.1e}", lm.budgets))


def training(scale: Scale) -> str:
    """Steps of each method on a small model, beside the CPU's losses for the first ones."""
    from aurac.training.job import train
    from aurac.training.recipe import make_recipe

    folder = Path(tempfile.mkdtemp())
    config = config_of(scale.small)
    from transformers import LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer(scale.small.vocabulary).save_pretrained(folder / "base")
    words = texts_of(scale.small, 64, 2 * scale.prompt)
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


@functools.cache
def large(scale: Scale) -> Any:
    """The model whose speed is measured."""
    return built(scale.large, torch.bfloat16, "cuda")


SECTIONS = {
    "Answers beside the CPU's": answers,
    "Decoding": decoding,
    "Scoring": scores,
    "Memory": memory,
    "Training": training,
    "Beside others": rivals,
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
