"""Locks: one holder at a time, taken over only from who is silent or gone, whatever clocks do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from aurac.files import alive, process_mark, same_machine
from aurac.runs.lock import Locks, Owner, read_owner

ENDED = f"{process_mark().rsplit('-', 1)[0]}-0"  # of this number another process began
ELSEWHERE = "elsewhere-1-1"


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def two(tmp_path):
    """Two processes in one folder. Their touches are sent by hand."""
    clocks = Clock(), Clock()
    with (
        Locks(tmp_path, seconds=3600, clock=clocks[0]) as a,
        Locks(tmp_path, seconds=3600, clock=clocks[1]) as b,
    ):
        yield a, b, clocks[1]


def write_lock(locks, key, mark, deaths=0, token="gone"):
    locks.folder.mkdir(parents=True, exist_ok=True)
    (locks.folder / key).write_text(json.dumps({"token": token, "mark": mark, "deaths": deaths}))


def strange(locks, key):
    """Make a lock one of another machine, whose processes cannot be seen from here."""
    owner = locks._held[key]
    locks._held[key] = Owner(owner.token, ELSEWHERE, owner.deaths)
    write_lock(locks, key, ELSEWHERE, owner.deaths, owner.token)


def test_one_holder_at_a_time(two):
    a, b, _ = two
    assert a.acquire("k")
    assert a.acquire("k")
    assert not b.acquire("k")
    assert b.acquire("other")
    assert a.keys() == {"k", "other"}
    a.release("k")
    assert b.keys() == {"other"}
    assert b.acquire("k")
    assert not b.lost("other")


def test_an_owner_that_shows_life_keeps_its_lock_for_ever(two):
    a, b, clock = two
    assert a.acquire("k")
    strange(a, "k")
    for _ in range(10):
        assert not b.acquire("k")
        before = (a.folder / "k").stat().st_mtime_ns
        while (a.folder / "k").stat().st_mtime_ns == before:  # a clock of coarse steps
            a.touch()
        clock.now += 3601


def test_a_silent_owner_is_followed_after_the_locks_time(two):
    a, b, clock = two
    assert a.acquire("k")
    strange(a, "k")
    assert not b.acquire("k")  # begins to watch
    clock.now += 3599
    assert not b.acquire("k")
    clock.now += 2
    assert b.acquire("k")
    assert a.lost("k")
    assert not b.lost("k")
    assert b.deaths("k") == 1
    a.touch()  # what it does now does not touch the new lock
    a.clear_deaths("k")
    a.release("k")
    assert not a.acquire("k")
    assert not b.lost("k")
    assert b.deaths("k") == 1


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_wall_clocks_may_jump(two, monkeypatch, jump):
    """A touch that the jumped clock dates into the past or the future is one more sign of life."""
    a, b, clock = two
    assert a.acquire("k")
    strange(a, "k")
    assert not b.acquire("k")
    later = time.time() + jump
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(time, "time_ns", lambda: int(later * 1e9))
    os.utime(a.folder / "k", (max(later, 0), max(later, 0)))
    clock.now += 3599
    assert not b.acquire("k")
    clock.now += 3599
    assert not b.acquire("k")


def test_an_owner_that_was_killed_here_is_followed_at_once(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from aurac.runs.lock import Locks\n"
        "with Locks(Path(sys.argv[1])) as mine:\n"
        "    assert mine.acquire('k')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    mark = read_owner(tmp_path / "locks" / "k").mark
    assert same_machine(mark)
    assert not alive(mark)
    with Locks(tmp_path) as mine:
        assert mine.acquire("k")
        assert mine.deaths("k") == 1
    assert mine.keys() == set()


def test_deaths_are_counted_until_something_is_kept(tmp_path):
    for number in range(1, 4):
        with Locks(tmp_path) as mine:
            assert mine.acquire("k")
            assert mine.deaths("k") == number - 1
            write_lock(mine, "k", ENDED, mine.deaths("k"))  # as if this process had been killed
            mine._held.clear()
            (tmp_path / "locks" / "k").rename(tmp_path / "kept")
        (tmp_path / "kept").rename(tmp_path / "locks" / "k")
    with Locks(tmp_path) as mine:
        assert mine.acquire("k")
        assert mine.deaths("k") == 3
        mine.clear_deaths("k")
        assert mine.deaths("k") == 0
        assert not mine.lost("k")
        assert read_owner(mine.folder / "k").deaths == 0


def test_what_a_killed_owner_held_is_removed_though_nobody_asks_for_it(tmp_path):
    """It was killed after its cell was written and before it gave the lock back."""
    with Locks(tmp_path) as mine:
        write_lock(mine, "done", ENDED)
        write_lock(mine, "theirs", ELSEWHERE)
    assert mine.keys() == {"theirs"}


@pytest.mark.parametrize("content", [b"", b'{"token": "a', b"[]", b"\xff"])
def test_a_lock_cut_off_while_it_was_made_is_watched_too(two, content):
    _, b, clock = two
    (b.folder / "k").write_bytes(content)
    assert not b.acquire("k")
    clock.now += 3601
    assert b.acquire("k")
    assert b.deaths("k") == 1


def test_many_at_once_and_one_remains(tmp_path):
    """Eight fight over the lock of a dead owner again and again; each round leaves one holder."""
    owners = [Locks(tmp_path, seconds=3600).__enter__() for _ in range(8)]
    try:
        for round_number in range(20):
            key = f"k{round_number}"
            write_lock(owners[0], key, ENDED)
            gate = threading.Barrier(len(owners))
            won = []

            def grab(mine, key=key, gate=gate, won=won):
                gate.wait()
                if mine.acquire(key):
                    won.append(mine)

            threads = [threading.Thread(target=grab, args=(o,)) for o in owners]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len([o for o in won if not o.lost(key)]) == 1
    finally:
        for owner in owners:
            owner.__exit__(None, None, None)
    assert [t for t in threading.enumerate() if t.name == "aurac-locks"] == []


def test_a_lock_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    with Locks(tmp_path) as mine:
        monkeypatch.setattr("aurac.runs.lock.os.write", _no_space)
        with pytest.raises(OSError, match="No space"):
            mine.acquire("k")
        assert mine.keys() == set()
        monkeypatch.undo()
        assert mine.acquire("k")


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_the_heartbeat_touches_the_lock(tmp_path):
    with Locks(tmp_path, seconds=0.12) as mine:
        assert mine.acquire("k")
        before = (mine.folder / "k").stat().st_mtime_ns
        deadline = time.monotonic() + 10
        while (mine.folder / "k").stat().st_mtime_ns == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_an_owner_whose_work_hangs_falls_silent_and_is_followed(tmp_path):
    """It lives, but makes no step: its lock goes to another."""
    mine, theirs = Clock(), Clock()
    with (
        Locks(tmp_path, seconds=3600, clock=mine, stall_seconds=50) as hung,
        Locks(tmp_path, seconds=3600, clock=theirs) as other,
    ):
        assert hung.acquire("k")
        strange(hung, "k")
        path = hung.folder / "k"
        hung.step()
        os.utime(path, (1, 1))
        mine.now += 50
        hung.touch()
        assert path.stat().st_mtime > 1
        assert not other.acquire("k")
        os.utime(path, (1, 1))
        assert not other.acquire("k")
        mine.now += 1
        hung.touch()
        assert path.stat().st_mtime == 1
        theirs.now += 3601
        assert other.acquire("k")
        assert hung.lost("k")
        assert hung.acquire("l")
        hung.step()  # it wakes up and shows life again, for what it still holds
        os.utime(hung.folder / "l", (1, 1))
        hung.touch()
        assert (hung.folder / "l").stat().st_mtime > 1


def test_a_lock_of_the_same_name_that_another_made_is_left_alone(two):
    """It was taken over, given back, and taken anew by somebody else, while its owner slept."""
    a, b, _ = two
    assert a.acquire("k")
    (a.folder / "k").unlink()
    assert b.acquire("k")
    assert a.lost("k")
    a.release("k")
    assert b.keys() == {"k"}
