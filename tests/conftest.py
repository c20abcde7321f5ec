"""Shared fixtures: a tiny random Llama with a tokenizer built here, and the packaged real model."""

from __future__ import annotations

import gc
import io
import os
import stat
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import hypothesis
import pytest

from aurac.models.device import share_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# One core of a test machine may be busy with something else; a unit test must not notice.
share_cores()
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", str(max(CORES // workers, 1)))
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# lm-eval bootstraps in a pool of forks, and a fork of a process with threads may wait for ever.
os.environ.setdefault("DISABLE_MULTIPROC", "1")

# A busy machine is no reason to fail.
hypothesis.settings.register_profile(
    "aurac", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("aurac")
os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "120")

REPOSITORY = Path(__file__).parent.parent
WORDS = (
    *("Question:", "Answer:", "a", "b", "c", "d", "e", "f", "g", "h", *"0123456789"),
    *("+", "-", "*", "=", "####", "how", "many", "apples", "pears", "has", "does", "left", "in"),
    *("all", "each", "box", "bag", "Mia", "Tom", "Ada", "buys", "gives"),
)


def pytest_xdist_auto_num_workers() -> int:
    """Processes of `pytest -n auto`: each of them may hold the packaged model."""
    return min(CORES, 8)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process has one of them alone at the end.

    Tests that need an accelerator are skipped where there is none, with the reason.
    """
    import torch

    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))


def pytest_collection_finish() -> None:
    """What is imported stays: a training that collects garbage need not look through it."""
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a 2-layer random Llama (hidden 32) and a word-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "base"
    vocabulary = {word: k for k, word in enumerate(["<unk>", "<eos>", "\n", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<eos>", unk_token="<unk>", pad_token="<eos>"
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,  # large enough that a forward pass says something
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def group_writes() -> Iterator[Callable[[Path], set[str]]]:
    """A umask of 002, and what gives the modes of a path and of all below it."""

    def modes(folder: Path) -> set[str]:
        return {stat.filemode(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}

    before = os.umask(0o002)
    yield modes
    os.umask(before)


@pytest.fixture
def isolated_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("AURAC_CACHE", str(folder))
    return folder


@contextmanager
def unencoded() -> Iterator[Callable[..., None]]:
    """Each figure is drawn once, and stored as its texts alone; gives matplotlib's own `savefig`.

    To draw a figure for each of its files, and to encode it, takes most of the time of a report.
    """
    from weakref import WeakKeyDictionary

    from matplotlib.figure import Figure
    from matplotlib.text import Text

    drawn: WeakKeyDictionary[Figure, str] = WeakKeyDictionary()

    def save(figure: Figure, file: IO[Any], **_: object) -> None:
        if figure not in drawn:
            figure.draw_without_rendering()
            texts = escape("\n".join(text.get_text() for text in figure.findobj(Text)))
            drawn[figure] = f'<svg xmlns="http://www.w3.org/2000/svg"><text>{texts}</text></svg>'
        file.write(drawn[figure] if isinstance(file, io.StringIO) else drawn[figure].encode())

    whole = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", save)
        yield whole


@pytest.fixture(scope="module")
def plain_figures() -> Iterator[Callable[..., None]]:
    """For files whose tests look at no figure; see `unencoded`."""
    with unencoded() as whole:
        yield whole


@pytest.fixture
def plain_figure() -> Iterator[None]:
    """For a test that looks at no figure, among some that do."""
    with unencoded():
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real task data that lies beside some checkouts; skipped with the reason elsewhere."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data beside this checkout")
    return folder
