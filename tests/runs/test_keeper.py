"""Checkpoints of a cluster's workers, without a cluster: an actor is an object that is called."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aurac.runs.keeper import Keeper, KeeperLink, WorkersCheckpoint
from aurac.runs.store import CellStore


class RayError(Exception):
    """Ray's."""


class Ray:
    """As much of Ray as a keeper uses; `lost` makes every call fail."""

    def __init__(self):
        self.lost = False
        self.exceptions = SimpleNamespace(RayError=RayError)

    def remote(self, **_):
        return lambda kind: SimpleNamespace(remote=lambda: self.actor(kind()))

    def actor(self, thing):
        def method(name):
            return SimpleNamespace(remote=lambda *a, **o: self.call(getattr(thing, name), *a, **o))

        return SimpleNamespace(**{n: method(n) for n in ("load", "save", "drop", "news")})

    def call(self, work, *arguments, **options):
        if self.lost:
            raise RayError("the actor died")
        return work(*arguments, **options)

    def get(self, value, timeout):
        assert timeout > 0
        return value


@pytest.fixture
def link(tmp_path):
    ray = Ray()
    return ray, KeeperLink(ray, CellStore(tmp_path), 0.0, None), CellStore(tmp_path)


KEY, OTHER = "a" * 64, "b" * 64


def test_what_one_worker_kept_another_finds(link):
    ray, keeper, _ = link
    first = WorkersCheckpoint(ray, keeper.handle, KEY, 0.0)
    assert not first
    assert first.load("scores") is None
    first.save("scores", {"passes": 3})
    second = WorkersCheckpoint(ray, keeper.handle, KEY, 0.0)
    assert second
    assert second.load("scores") == {"passes": 3}
    assert not WorkersCheckpoint(ray, keeper.handle, OTHER, 0.0)


def test_it_is_due_after_its_time(link):
    ray, keeper, _ = link
    now = [100.0]
    checkpoint = WorkersCheckpoint(ray, keeper.handle, KEY, 15.0, clock=lambda: now[0])
    assert not checkpoint.due()
    now[0] += 15.0
    assert checkpoint.due()
    checkpoint.save("scores", {})
    assert not checkpoint.due()


def test_news_reach_the_run_folder_and_come_back_from_it(link):
    ray, keeper, store = link
    WorkersCheckpoint(ray, keeper.handle, KEY, 0.0).save("scores", {"passes": 3})
    keeper.look()
    assert store.load_partial(KEY, "scores")["passes"] == 3
    # Another cluster, the same folder: the head was lost.
    anew = KeeperLink(Ray(), store, 0.0, None)
    anew.hand_out(KEY)
    assert WorkersCheckpoint(ray, anew.handle, KEY, 0.0).load("scores") == {"passes": 3}
    store.drop_partials(KEY)
    anew.look()  # what came from the folder is no news
    assert not store.has_partial(KEY)


def test_a_settled_cell_leaves_nothing(link):
    ray, keeper, store = link
    WorkersCheckpoint(ray, keeper.handle, KEY, 0.0).save("scores", {"passes": 3})
    WorkersCheckpoint(ray, keeper.handle, OTHER, 0.0).save("scores", {"passes": 4})
    keeper.settled(KEY)
    keeper.look(now=True)
    assert not store.has_partial(KEY)
    assert store.has_partial(OTHER)
    assert not WorkersCheckpoint(ray, keeper.handle, KEY, 0.0)


def test_a_part_that_comes_in_after_its_cell_is_not_kept(link, tmp_path):
    ray, keeper, store = link
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / f"{KEY}.json").write_text("{}")
    WorkersCheckpoint(ray, keeper.handle, KEY, 0.0).save("scores", {"passes": 3})
    keeper.look(now=True)
    assert not store.has_partial(KEY)


def test_a_lost_keeper_costs_no_cell(link, caplog):
    ray, keeper, store = link
    kept = WorkersCheckpoint(ray, keeper.handle, KEY, 0.0)
    ray.lost = True
    kept.save("scores", {"passes": 3})
    keeper.hand_out(KEY)
    keeper.look(now=True)
    keeper.settled(KEY)
    assert not WorkersCheckpoint(ray, keeper.handle, KEY, 0.0)
    assert "no checkpoint within a cell can be read" in caplog.text
    assert not store.has_partial(KEY)


def test_the_keeper_forgets_news_that_were_asked_for():
    keeper = Keeper()
    keeper.save("k", "scores", {"x": 1})
    keeper.save("k", "scores", {"x": 2})
    assert keeper.news() == [("k", "scores", {"x": 2})]
    assert keeper.news() == []
    assert keeper.load("k") == {"scores": {"x": 2}}
