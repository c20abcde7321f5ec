"""A long evaluation goes on after any pass or piece, with the bytes of an undisturbed one."""

from __future__ import annotations

import json
import random

import pytest
from engine_models import tiny, tokenizer, words

from aurac.engine import checkpoint as kept
from aurac.engine.counts import recording
from aurac.engine.generate import GenerationRequest, generate
from aurac.engine.loglikelihood import loglikelihoods
from aurac.engine.options import EngineOptions
from aurac.runs.partial import CellCheckpoint
from aurac.runs.store import CellStore

KEY = "k" * 64


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A checkpoint after every pass would wait for the disk thousands of times."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


class StopError(Exception):
    """The process ends here."""


class Passes:
    """Counts a model's passes, and ends the process before one of them."""

    def __init__(self, model, at=None):
        self.count, self.at, self.model = 0, at, model

    def __enter__(self):
        self._hook = self.model.register_forward_pre_hook(self._before)
        return self

    def __exit__(self, *_):
        self._hook.remove()

    def _before(self, *_):
        if self.count == self.at:
            raise StopError
        self.count += 1


def pairs(seed=0):
    """Contexts with long common beginnings, nested, so that prefixes are held at two depths."""
    rng = random.Random(seed)
    head = words(rng, 60)
    found = []
    for _ in range(3):
        trunk = f"{head} {words(rng, 60)}"
        for _ in range(7):
            context = f"{trunk} {words(rng, 25)}"
            found += [(context, f" {words(rng, 3)}") for _ in range(3)]
    return found


def score(model, **options):
    counted = []
    found = loglikelihoods(
        model, tokenizer(), PAIRS, options=EngineOptions(**options), progress=counted.append
    )
    assert sum(counted) == len(PAIRS)
    return found


PAIRS = pairs()


@pytest.mark.parametrize("packed", [True, False])
def test_scoring_goes_on_after_any_pass(tmp_path, packed):
    model = tiny("llama")
    model.config.max_position_embeddings = 2048
    options = {"batch_tokens": 64 if packed else 600, "packed": packed}
    score(model, **options)  # the probe's passes are over
    with Passes(model) as undisturbed:
        expected = score(model, **options)
    assert undisturbed.count > 10
    for at in range(1, undisturbed.count, 5):
        store = CellStore(tmp_path / str(at))
        mine = CellCheckpoint(store, KEY, seconds=0)
        with pytest.raises(StopError), Passes(model, at), kept.checkpointing(mine):
            score(model, **options)
        mine = CellCheckpoint(store, KEY, seconds=0)
        with Passes(model) as rest, kept.checkpointing(mine):
            assert score(model, **options) == expected
        again = rest.count + at - undisturbed.count
        assert 0 <= again <= (2 if packed else 0)  # only held prefixes, at most one of each depth


def assert_begins_anew(store, model, evaluate, **budget):
    """With these budgets, nothing that the store keeps of the cell is taken over."""
    with Passes(model) as whole:
        expected = evaluate(model, **budget)
    with Passes(model) as second, kept.checkpointing(CellCheckpoint(store, KEY, 3600)):
        assert evaluate(model, **budget) == expected
    assert second.count == whole.count


def cut_off(store, model, at, evaluate, **budget):
    """The process ends before a pass, and keeps what it has."""
    mine = CellCheckpoint(store, KEY, 0)
    with pytest.raises(StopError), Passes(model, at), kept.checkpointing(mine):
        evaluate(model, **budget)
    assert any(store.partial.iterdir())


def test_passes_of_another_budget_are_not_taken_over(tmp_path):
    """Memory did not suffice: the batch is halved, and the passes are others."""
    model = tiny("llama")
    model.config.max_position_embeddings = 2048
    store = CellStore(tmp_path)
    cut_off(store, model, 4, score, batch_tokens=64)
    assert_begins_anew(store, model, score, batch_tokens=32)


def requests():
    rng = random.Random(3)
    return [
        GenerationRequest(words(rng, rng.randint(1, 30)), ("fox",), rng.choice([3, 12, 20]))
        for _ in range(24)
    ]


def write(model, **options):
    counted = []
    with recording() as record:
        texts = generate(
            model, tokenizer(), REQUESTS, options=EngineOptions(**options), progress=counted.append
        )
    assert sum(counted) == len(REQUESTS)
    return texts, record.near_ties, record.computed


REQUESTS = requests()


@pytest.mark.parametrize("packed", [True, False])
def test_generation_goes_on_after_any_piece(tmp_path, monkeypatch, packed):
    model = tiny("llama")
    weights = sum(p.numel() for p in model.parameters())
    monkeypatch.setitem(kept.PIECE_FLOPS, "cpu", 2 * weights * 100)  # 100 tokens a piece
    write(model, packed=packed)
    with Passes(model) as undisturbed:
        expected = write(model, packed=packed)
    for at in range(1, undisturbed.count, undisturbed.count // 9):
        store = CellStore(tmp_path / str(at))
        with (
            pytest.raises(StopError),
            Passes(model, at),
            kept.checkpointing(CellCheckpoint(store, KEY, 0)),
        ):
            write(model, packed=packed)
        with Passes(model) as rest, kept.checkpointing(CellCheckpoint(store, KEY, 0)):
            assert write(model, packed=packed) == expected
        longest = 2 * 21 + 2 if packed else undisturbed.count / 2
        assert rest.count <= undisturbed.count - at + longest  # at most the piece in flight


def test_pieces_cover_the_prompts_and_hold_to_their_size(monkeypatch):
    from aurac.engine.generate import generation_layout

    model = tiny("llama")
    weights = sum(p.numel() for p in model.parameters())
    prompts = generation_layout(model, tokenizer(), REQUESTS, EngineOptions()).prompts
    whole = kept.pieces(prompts, 0, model, 256, 32768)
    assert len(whole) == 1  # a short evaluation is one piece: nothing changes for it
    monkeypatch.setitem(kept.PIECE_FLOPS, "cpu", 2 * weights * 100)
    cut = kept.pieces(prompts, 0, model, 256, 32768)
    assert sorted(n for piece in cut for n in piece) == list(range(len(prompts)))
    sizes = [sum(len(prompts[n].tokens) + prompts[n].max_new_tokens / 2 for n in p) for p in cut]
    assert len(cut) > 4
    assert all(100 <= size < 100 + 256 for size in sizes[:-1])
    assert kept.pieces(prompts, 0, model, 1, 1) == cut  # on a CPU the slots do not matter


@pytest.mark.parametrize("damage", ["torn", "flipped", "other"])
def test_a_damaged_checkpoint_is_not_used(tmp_path, damage, caplog):
    model = tiny("llama")
    model.config.max_position_embeddings = 2048
    expected = score(model, batch_tokens=64)
    store = CellStore(tmp_path)
    with (
        pytest.raises(StopError),
        Passes(model, 6),
        kept.checkpointing(CellCheckpoint(store, KEY, 0)),
    ):
        score(model, batch_tokens=64)
    [path] = store.partial.iterdir()
    content = path.read_text()
    if damage == "torn":
        path.write_text(content[:-40])
    elif damage == "flipped":
        path.write_text(content.replace('"passes": 6', '"passes": 7'))
    else:
        path.write_text(json.dumps([content]))
    with Passes(model) as whole, kept.checkpointing(CellCheckpoint(store, KEY, 3600)):
        assert score(model, batch_tokens=64) == expected
    assert whole.count > 10
    assert "not used" in caplog.text


def test_a_full_disk_does_not_stop_a_cell(tmp_path, monkeypatch, caplog):
    model = tiny("llama")
    model.config.max_position_embeddings = 2048
    expected = score(model, batch_tokens=64)

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with kept.checkpointing(CellCheckpoint(CellStore(tmp_path), KEY, 0)):
        assert score(model, batch_tokens=64) == expected
    assert "no checkpoint within a cell" in caplog.text


def test_checkpoints_keep_their_distance(tmp_path):
    now = [0.0]
    mine = CellCheckpoint(CellStore(tmp_path), KEY, 15.0, lambda: now[0])
    assert not mine.due()
    now[0] = 15.0
    assert mine.due()
    mine.save("p", {"x": 1})
    assert not mine.due()
    assert mine.load("p")["x"] == 1


def test_pieces_of_another_budget_are_not_taken_over(tmp_path, monkeypatch):
    """Memory did not suffice: fewer sequences share a pass, and round otherwise."""
    model = tiny("llama")
    weights = sum(p.numel() for p in model.parameters())
    monkeypatch.setitem(kept.PIECE_FLOPS, "cpu", 2 * weights * 100)
    write(model)  # the probe's passes are over
    store = CellStore(tmp_path)
    cut_off(store, model, 40, write, batch_size=8)
    for budget in ({"batch_size": 4}, {"batch_size": 8, "cache_tokens": 90}):
        assert_begins_anew(store, model, write, **budget)
