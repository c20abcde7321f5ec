"""Leases: one owner at a time, taken over only from who is silent or gone, whatever clocks do."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from aurac.machine import alive, process_mark, same_machine
from aurac.runs.lock import Leases, listed, owner_marks


class Clock:
    """A monotonic clock that moves when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def two(tmp_path):
    """Two owners in one folder. Their heartbeats are sent by hand."""
    clocks = Clock(), Clock()
    with (
        Leases(tmp_path, seconds=3600, clock=clocks[0]) as a,
        Leases(tmp_path, seconds=3600, clock=clocks[1]) as b,
    ):
        yield a, b, clocks[1]


def strange(leases):
    """Make an owner's mark one of another machine, whose processes cannot be seen from here."""
    own = leases.folder / "owners" / leases.owner
    own.write_bytes(own.read_bytes().replace(process_mark().encode(), b"elsewhere-1-1"))


def test_one_holder_at_a_time(two):
    a, b, _ = two
    assert a.acquire("k")
    assert a.acquire("k")
    assert not b.acquire("k")
    assert b.acquire("other")
    a.release("k")
    assert b.acquire("k")
    assert not b.lost("other")


def test_an_owner_that_shows_life_keeps_its_lease_for_ever(two):
    a, b, clock = two
    assert a.acquire("k")
    strange(a)
    for _ in range(10):
        assert not b.acquire("k")
        a.beat()
        strange(a)
        clock.now += 3599


def test_a_silent_owner_is_followed_after_the_lease_time_and_drops_its_work(two):
    a, b, clock = two
    assert a.acquire("k")
    strange(a)
    assert not b.acquire("k")  # begins to watch
    clock.now += 3599
    assert not b.acquire("k")
    clock.now += 2
    assert b.acquire("k")
    assert a.lost("k")
    assert not b.lost("k")
    assert b.generation("k") == 2
    a.release("k")  # what it does now does not touch the new lease
    assert not a.acquire("k")
    assert not b.lost("k")


@pytest.mark.parametrize("jump", [-1e9, 1e9])
def test_wall_clocks_may_jump(two, monkeypatch, jump):
    a, b, _ = two
    assert a.acquire("k")
    strange(a)
    assert not b.acquire("k")
    later = time.time() + jump
    monkeypatch.setattr(time, "time", lambda: later)
    monkeypatch.setattr(time, "time_ns", lambda: int(later * 1e9))
    own = a.folder / "owners" / a.owner
    for path in (own, a.folder / "k.1"):
        os.utime(path, (max(later, 0), max(later, 0)))
    assert not b.acquire("k")


def test_an_owner_that_was_killed_here_is_followed_at_once(tmp_path):
    script = (
        "import os, signal, sys; from pathlib import Path; from aurac.runs.lock import Leases\n"
        "with Leases(Path(sys.argv[1])) as mine:\n"
        "    assert mine.acquire('k')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    [(owner, mark)] = owner_marks(tmp_path / "leases").items()
    assert same_machine(mark)
    assert not alive(mark)
    with Leases(tmp_path) as mine:
        assert mine.acquire("k")
        assert mine.generation("k") == 2
    # Nothing is left of either, the dead owner's file included.
    assert listed(tmp_path / "leases") == []
    assert owner_marks(tmp_path / "leases") == {}
    assert owner


def test_what_a_killed_owner_held_is_removed_though_nobody_asks_for_it(tmp_path):
    """It was killed after its cell was written and before it gave the lease back."""
    ended = process_mark().rsplit("-", 1)[0].encode() + b"-0 1\n"
    with Leases(tmp_path) as mine:
        (mine.folder / "done.1").write_text('{"owner": "gone"}')
        (mine.folder / "owners" / "gone").write_bytes(ended)
        (mine.folder / "theirs.1").write_text('{"owner": "far"}')
        (mine.folder / "owners" / "far").write_bytes(b"elsewhere-1-1 1\n")
    assert [lease.key for lease in listed(tmp_path / "leases")] == ["theirs"]
    assert set(owner_marks(tmp_path / "leases")) == {"far"}


def test_a_lease_cut_off_while_it_was_made_is_watched_too(two):
    _, b, clock = two
    (b.folder / "k.4").write_bytes(b"")
    assert not b.acquire("k")
    clock.now += 3601
    assert b.acquire("k")
    assert b.generation("k") == 5


def test_an_owner_without_its_file_is_given_a_moment(two):
    a, b, clock = two
    assert a.acquire("k")
    (a.folder / "owners" / a.owner).unlink()
    assert not b.acquire("k")
    clock.now += 2.1
    assert b.acquire("k")


def test_many_at_once_and_never_two(tmp_path):
    """Eight owners fight over one stale lease again and again; each round has one winner."""
    owners = [Leases(tmp_path, seconds=3600).__enter__() for _ in range(8)]
    try:
        for round_number in range(20):
            stale = owners[0].folder / f"k{round_number}.1"
            stale.write_text('{"owner": "deadbeef"}')
            (owners[0].folder / "owners" / "deadbeef").write_bytes(
                process_mark().rsplit("-", 1)[0].encode() + b"-0 1\n"  # ended: began another time
            )
            gate = threading.Barrier(len(owners))
            won = []

            def grab(mine, key=f"k{round_number}", gate=gate, won=won):
                gate.wait()
                if mine.acquire(key):
                    won.append(mine)

            threads = [threading.Thread(target=grab, args=(o,)) for o in owners]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            holders = [o for o in won if not o.lost(f"k{round_number}")]
            assert len(holders) == 1
    finally:
        for owner in owners:
            owner.__exit__(None, None, None)
    assert [t for t in threading.enumerate() if t.name == "aurac-leases"] == []


def test_a_lease_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    with Leases(tmp_path) as mine:
        monkeypatch.setattr("aurac.runs.lock.os.write", _no_space)
        with pytest.raises(OSError, match="No space"):
            mine.acquire("k")
        assert listed(mine.folder) == []


def _no_space(*_):
    raise OSError(28, "No space left on device")


def test_the_heartbeat_changes_the_owners_file(tmp_path):
    with Leases(tmp_path, seconds=0.12) as mine:
        own = mine.folder / "owners" / mine.owner
        before = own.read_bytes()
        deadline = time.monotonic() + 10
        while own.read_bytes() == before:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(own.read_bytes()) == len(before)


def test_an_owner_whose_work_hangs_falls_silent_and_is_followed(tmp_path):
    """It lives, but makes no step: its lease goes to another, and its late work is dropped."""
    mine, theirs = Clock(), Clock()
    with (
        Leases(tmp_path, seconds=3600, clock=mine, stall_seconds=50) as hung,
        Leases(tmp_path, seconds=3600, clock=theirs) as other,
    ):
        assert hung.acquire("k")
        own = hung.folder / "owners" / hung.owner
        hung.step()
        mine.now += 50
        before = own.read_bytes()
        hung.beat()
        assert own.read_bytes() != before
        assert not other.acquire("k")
        theirs.now += 3601
        mine.now += 1
        before = own.read_bytes()
        hung.beat()
        assert own.read_bytes() == before
        assert other.acquire("k")
        assert hung.lost("k")
        hung.step()  # it wakes up and shows life again
        hung.beat()
        assert own.read_bytes() != before


def test_the_keys_that_are_held(two):
    a, b, _ = two
    assert a.acquire("k")
    assert b.acquire("l")
    assert a.keys() == {"k", "l"}
    a.release("k")
    assert b.keys() == {"l"}


def test_a_lease_of_the_same_name_that_another_made_is_left_alone(two):
    """It was taken over, given back, and taken anew by somebody else, while its owner slept."""
    a, b, _ = two
    assert a.acquire("k")
    (a.folder / "k.1").unlink()
    assert b.acquire("k")
    assert a.lost("k")
    a.release("k")
    assert b.keys() == {"k"}


def test_who_wakes_up_shows_life_before_it_takes_another_lease(tmp_path):
    mine = Clock()
    with Leases(tmp_path, seconds=3600, clock=mine, stall_seconds=50) as sleeper:
        own = sleeper.folder / "owners" / sleeper.owner
        before = own.read_bytes()
        sleeper.step()
        assert own.read_bytes() == before
        mine.now += 51
        sleeper.step()
        assert own.read_bytes() != before
