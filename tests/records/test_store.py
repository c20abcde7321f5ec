"""Cells on disk: keys, blocks, damage, atomic writing."""

from __future__ import annotations

import errno
import json
import lzma
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_cells import make_block, make_identity
from packing import pack

from aurac.errors import RunFolderError
from aurac.files import (
    link_or_copy,
    packed,
    process_mark,
    sweep_scraps,
    write_atomic,
    write_json,
)
from aurac.records.cell import (
    Aggregates,
    CellIdentity,
    DocumentKey,
    EngineCounts,
    Failure,
    Logged,
    changed_parts,
    differences,
    encode_line,
)
from aurac.records.results_file import Results
from aurac.records.store import CellStore, documents_hash, read_cell
from aurac.runs.lock import Locks
from aurac.runs.log import RunLog

IDENTITY = make_identity(rank=4)
REPOSITORY = Path(__file__).parents[2]
KEYS = tuple(DocumentKey(str(n), f"content{n}", f"prompt{n}") for n in range(12))


def block(*places, value=None, **fields):
    """These documents; each outcome is `value`, or the document's own."""
    scores = [float(n if value is None else value) for n in places]
    return make_block(
        [KEYS[n] for n in places], {"acc,none": scores}, [f"answer {s}" for s in scores], **fields
    )


def fill(store, *blocks, identity=IDENTITY):
    """Append blocks, each with the number of documents up to it; the file."""
    there = 0
    for one in blocks:
        there += len(one.documents)
        store.append(identity, one, there)
    return store.path(identity.key)


@pytest.fixture
def store(tmp_path):
    return CellStore(tmp_path)


def test_a_cell_comes_back_as_it_was(store):
    assert store.read(IDENTITY.key) is None
    assert store.count(IDENTITY.key) == 0
    logged = Logged(
        greedy=[[True], [False]], filtered={"f": ["a", "b"]}, other={"x,none": [1, [2]]}
    )
    path = fill(store, block(0, 1, logged=logged, notes=["note"]))
    cell = store.read(IDENTITY.key)
    assert cell.identity == IDENTITY
    assert cell.documents == list(KEYS[:2])
    assert cell.doc_ids == ["0", "1"]
    assert cell.metrics == {"acc,none": [0.0, 1.0]}
    assert cell.responses == ["answer 0.0", "answer 1.0"]
    assert (cell.logged, cell.notes, cell.seconds) == (logged, ["note"], 1.0)
    assert (cell.missing, cell.damaged) == ([], 0)
    assert path.name == f"{IDENTITY.key}.jsonl"
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert store.keys() == {IDENTITY.key}


def test_a_cell_grows_and_earlier_lines_stay_as_they_are(store):
    path = fill(store, block(0, 1))
    before = path.read_bytes()
    store.append(IDENTITY, block(2, 3, 4), 5)
    assert path.read_bytes().startswith(before)
    assert store.count(IDENTITY.key) == 5
    assert store.read(IDENTITY.key).doc_ids == ["0", "1", "2", "3", "4"]


def test_documents_come_in_the_order_that_is_asked_for_and_what_lacks_is_named(store):
    fill(store, block(0, 1, 2), block(3))
    cell = store.read(IDENTITY.key, [KEYS[3], KEYS[7], KEYS[0]])
    assert cell.documents == [KEYS[3], KEYS[0]]
    assert cell.metrics["acc,none"] == [3.0, 0.0]
    assert cell.missing == [KEYS[7]]


def test_a_document_is_its_identity_its_content_and_its_prompt(store):
    fill(store, block(0))
    for field in ("id", "content", "prompt"):
        other = msgspec.structs.replace(KEYS[0], **{field: "other"})
        assert store.read(IDENTITY.key, [other]).missing == [other]


def test_the_first_outcome_of_a_document_counts(store):
    fill(store, block(0, 1), block(1, 2, value=9))
    assert store.read(IDENTITY.key).metrics["acc,none"] == [0.0, 1.0, 9.0]


def test_counts_are_summed_over_the_blocks_and_near_ties_only_where_they_are_known(store):
    counts = EngineCounts(computed_tokens=8.0, distinct_tokens=4.0, passes=2.0, near_ties=1)
    other = msgspec.structs.replace(counts, near_ties=2, paths=["packed"], flops=None)
    fill(store, block(0, 1, engine=counts), block(2, 3, engine=other))
    whole = store.read(IDENTITY.key, KEYS[:4]).engine
    assert (whole.computed_tokens, whole.near_ties, whole.flops) == (16.0, 3, None)
    assert whole.paths == ["packed"]
    assert store.read(IDENTITY.key, KEYS[:2]).engine == counts
    part = store.read(IDENTITY.key, KEYS[:1]).engine
    assert (part.near_ties, part.passes) == (None, 2.0)


def test_metrics_that_not_every_block_has_are_left_out(store):
    both = make_block([KEYS[1]], {"acc,none": [1], "f1,none": [0.5]})
    fill(store, block(0), both)
    assert store.read(IDENTITY.key).metrics == {"acc,none": [0.0, 1.0]}
    assert store.read(IDENTITY.key, [KEYS[1]]).metrics == {"acc,none": [1.0], "f1,none": [0.5]}


def test_aggregates_belong_to_exactly_their_documents(store):
    fill(store, block(0, 1, 2))
    values = {"mcc,none": 0.25}
    store.append(IDENTITY, Aggregates(documents_sha256=documents_hash(KEYS[:3]), values=values), 3)
    assert store.read(IDENTITY.key, KEYS[:3]).aggregates == values
    assert store.read(IDENTITY.key, KEYS[:2]).aggregates == {}


@pytest.mark.parametrize("field", CellIdentity.__struct_fields__)
def test_every_field_changes_the_key(field):
    other = msgspec.structs.replace(IDENTITY, **{field: 7 if field != "fit_factor" else 2.0})
    assert other.key != IDENTITY.key


def test_outcomes_of_another_scoring_are_superseded(store):
    """Lines without one, as older versions wrote them, stand beside those of any."""
    store.append(IDENTITY, block(0, 1), 2)
    store.append(IDENTITY, block(2), 3, "aa-bb")
    assert store.end(IDENTITY.key) == ("aa-bb", 3)
    assert store.count(IDENTITY.key) == store.count(IDENTITY.key, "aa-bb") == 3
    assert store.read(IDENTITY.key, scoring="aa-bb").doc_ids == ["0", "1", "2"]
    assert store.count(IDENTITY.key, "aa-cc") == 0
    other = store.read(IDENTITY.key, KEYS[:3], "aa-cc")
    assert (tuple(other.missing), other.damaged) == (KEYS[:3], 0)
    store.append(IDENTITY, block(1), 1, "aa-cc")
    assert store.read(IDENTITY.key).doc_ids == ["1"]
    assert store.read(IDENTITY.key, KEYS[:3], "aa-cc").missing == [KEYS[0], KEYS[2]]
    assert store.count(IDENTITY.key, "aa-bb") == 0
    assert changed_parts("aa-bb", "aa-cc") == ["metric_list"]


def test_results_are_written_as_they_were_read(tmp_path):
    kept = REPOSITORY / "reports" / "word_problems"
    Results.read(kept).write(tmp_path)
    assert (tmp_path / "results.json").read_bytes() == (kept / "results.json").read_bytes()


# Damage -----------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_never_a_wrong_number(store):
    path = fill(store, block(0, 1), block(2, 3))
    whole = path.read_bytes()
    good = store.read(IDENTITY.key, KEYS[:4])
    damaged = 0
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 2]) + whole[position + 1 :])
        cell = store.read(IDENTITY.key, KEYS[:4])
        if cell is None:
            damaged += 1
            continue
        damaged += bool(cell.damaged or cell.missing)
        for key, value in zip(cell.documents, cell.metrics.get("acc,none", []), strict=True):
            assert value == good.metrics["acc,none"][KEYS.index(key)]
    # The count of documents at the end of a line and the names of the envelope are no content.
    assert damaged > len(whole) / 3 * 0.9


@pytest.mark.parametrize("line", [0, 1, 2], ids=["first line", "a block", "the last block"])
@pytest.mark.parametrize("damage", ["flip", "foreign", "gone"])
def test_a_cell_with_a_damaged_line_is_made_whole(store, line, damage):
    """Blocks without a whole first line before them are nobody's, and are computed again."""
    path = fill(store, block(0, 1), block(2, 3))
    lines = path.read_bytes().splitlines(keepends=True)
    flipped = bytearray(lines[line])
    flipped[80] ^= 1
    lines[line] = {"flip": bytes(flipped), "foreign": b'{"of": "another"}\n', "gone": b""}[damage]
    path.write_bytes(b"".join(lines))
    cell = store.read(IDENTITY.key, KEYS[:4])
    lost = {0: (0, 1, 2, 3), 1: (0, 1), 2: (2, 3)}[line]
    if line == 0:
        assert cell is None
    else:
        assert cell.missing == [KEYS[n] for n in lost]
        assert cell.damaged == (damage != "gone")
    store.append(IDENTITY, block(*lost), 4)
    again = store.read(IDENTITY.key, KEYS[:4])
    assert (again.missing, again.metrics["acc,none"]) == ([], [0.0, 1.0, 2.0, 3.0])


@pytest.mark.parametrize("cut", [0, 1, 40, -2])
def test_a_torn_file_is_recomputed(store, cut):
    path = fill(store, block(0, 1))
    path.write_bytes(path.read_bytes()[:cut])
    assert store.count(IDENTITY.key) == 0
    cell = store.read(IDENTITY.key, KEYS[:2])
    assert cell is None or cell.missing == list(KEYS[:2])
    store.append(IDENTITY, block(0, 1), 2)
    assert store.read(IDENTITY.key, KEYS[:2]).metrics["acc,none"] == [0.0, 1.0]


def test_a_last_line_without_its_newline_is_used_and_what_follows_has_a_line_of_its_own(store):
    path = fill(store, block(0, 1))
    path.write_bytes(path.read_bytes()[:-1])
    assert store.count(IDENTITY.key) == 0  # not known from the end of the file
    assert store.read(IDENTITY.key).doc_ids == ["0", "1"]
    store.append(IDENTITY, block(2), 3)
    cell = store.read(IDENTITY.key)
    assert (cell.doc_ids, cell.damaged) == (["0", "1", "2"], 0)


def test_the_count_is_the_last_word_about_a_file(store):
    fill(store, block(0, 1))
    store.recount(IDENTITY, 1)
    assert store.count(IDENTITY.key) == 1
    assert store.read(IDENTITY.key).doc_ids == ["0", "1"]


def test_a_count_within_an_answer_is_not_the_files(store):
    text = '"documents":99}\n'
    store.append(IDENTITY, make_block([KEYS[0]], {"acc,none": [1]}, [text]), 1)
    assert store.count(IDENTITY.key) == 1
    assert store.read(IDENTITY.key).responses == [text]


def as_line(kind, content):
    raw = msgspec.json.encode(content)
    envelope = json.loads(encode_line(make_block([], {}), 0))
    envelope |= {"kind": kind, "content": content, "sha256": _sha256(raw)}
    return msgspec.json.encode(envelope) + b"\n"


def _sha256(raw):
    import hashlib

    return hashlib.sha256(raw).hexdigest()


def test_a_cell_of_a_newer_schema_is_refused_and_left_alone(store):
    """The same fields, and others; a flipped bit that only looks like one is damage."""
    path = fill(store, block(0))
    lines = path.read_bytes().splitlines(keepends=True)
    head = json.loads(lines[0])["content"]
    for content in ({**head, "schema": 3}, {"schema": 3, "something": "else"}):
        path.write_bytes(as_line("cell", content) + lines[1])
        before = path.read_bytes()
        with pytest.raises(RunFolderError, match=r"schema 3, written by a newer aurac.*update"):
            read_cell(path)
        with pytest.raises(RunFolderError, match="newer aurac"):
            store.append(IDENTITY, block(1), 2)
        assert path.read_bytes() == before
    path.write_bytes(lines[0].replace(b'"schema":2', b'"schema":3') + lines[1])
    assert store.read(IDENTITY.key) is None


def test_a_field_or_a_kind_of_line_that_is_added_later_needs_no_new_schema(store):
    path = fill(store, block(0))
    with path.open("ab") as file:
        later = msgspec.to_builtins(block(1)) | {"invented_later": [1]}
        file.write(as_line("block", later) + as_line("invented", {"later": 1}))
    cell = store.read(IDENTITY.key)
    assert cell.metrics["acc,none"] == [0.0, 1.0]
    assert cell.damaged == 1


def test_a_cell_under_the_name_of_another_is_not_used(store):
    other = make_identity(rank=8)
    fill(store, block(0)).rename(store.path(other.key))
    assert store.read(other.key) is None
    store.append(other, block(1), 1)
    assert store.read(other.key).doc_ids == ["1"]
    assert store.read(other.key).identity == other


def test_processes_that_append_at_once_lose_nothing(store):
    def work(number):
        for _ in range(20):
            store.append(IDENTITY, block(number), 1)

    threads = [threading.Thread(target=work, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    cell = store.read(IDENTITY.key, KEYS[:4])
    assert (cell.missing, cell.damaged) == ([], 0)
    assert cell.metrics["acc,none"] == [0.0, 1.0, 2.0, 3.0]


class LinesOfAFile:
    """The model of a cell's file: (bytes there, bytes written, content) of each line."""

    def __init__(self):
        self.lines = []

    def append(self, added, content):
        if added[0] == b"\n":  # the end of a line that had lost it, or was torn
            added = added[1:]
            present, size, before = self.lines[-1]
            self.lines[-1] = (present + 1, size, before)
        for line, what in zip(added, ["head", content][-len(added) :], strict=True):
            self.lines.append((len(line), len(line), what))

    def tear(self, rest):
        while self.lines and rest:
            present, size, content = self.lines.pop()
            kept = max(0, present - rest)
            rest -= present - kept
            if kept:  # a line that lost nothing but its end is whole
                self.lines.append((kept, size, content if kept >= size - 1 else None))

    def first_outcomes(self):
        contents = [content for _, _, content in self.lines]
        if "head" not in contents:
            return None
        first = {}
        for content in contents[contents.index("head") :]:
            if isinstance(content, dict):
                first = {**content, **first}
        return first


_STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(st.integers(0, 11), min_size=1, unique=True)),
    st.tuples(st.just("tear"), st.one_of(st.just(1), st.integers(2, 900))),
    st.tuples(st.just("read"), st.lists(st.integers(0, 11), unique=True)),
)


@settings(deadline=None)
@given(steps=st.lists(_STEPS, max_size=14))
def test_any_order_of_appends_reads_and_torn_tails_gives_first_outcomes(steps, tmp_path_factory):
    store, model = CellStore(tmp_path_factory.mktemp("store")), LinesOfAFile()
    path = store.path(IDENTITY.key)
    for value, (what, argument) in enumerate(steps):
        before = path.read_bytes() if path.exists() else b""
        if what == "append":
            store.append(IDENTITY, block(*argument, value=value), 0)
            added = path.read_bytes()[len(before) :].splitlines(keepends=True)
            model.append(added, dict.fromkeys(argument, float(value)))
        elif what == "tear" and before:
            path.write_bytes(before[: -min(argument, len(before))])
            model.tear(argument)
        wanted = argument if what == "read" else list(range(12))
        cell = store.read(IDENTITY.key, [KEYS[n] for n in wanted])
        first = model.first_outcomes()
        assert (cell is None) == (first is None)
        if cell is not None and first is not None:
            outcomes = dict(zip(cell.doc_ids, cell.metrics.get("acc,none", ()), strict=True))
            assert outcomes == {str(n): first[n] for n in wanted if n in first}
            assert cell.missing == [KEYS[n] for n in wanted if n not in first]


# Files ------------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path, monkeypatch):
    target = tmp_path / "x.json"
    write_json(target, {"a": 1})

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomic(target, "new")
    assert json.loads(target.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_files_are_for_whom_the_umask_lets(tmp_path, group_writes):
    folder = tmp_path / "run"
    write_atomic(folder / "a", "x")
    write_json(folder / "b", 1, exclusive=True)
    fill(CellStore(folder), block(0))
    with RunLog(folder) as log, Locks(folder) as locks:
        log.event("begin")
        assert locks.acquire("k")
        assert len(list(folder.rglob("*"))) == 8
        assert group_writes(folder) == {"drwxrwxr-x", "-rw-rw-r--"}


@pytest.mark.parametrize("links", [True, False])
def test_an_exclusive_write_leaves_what_is_there(tmp_path, monkeypatch, links):
    def none(*_):
        raise OSError(95, "Operation not supported")

    if not links:
        monkeypatch.setattr("os.link", none)
    write_json(tmp_path / "x.json", 1, exclusive=True)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "x.json", 2, exclusive=True)
    assert json.loads((tmp_path / "x.json").read_text()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_follows_the_file_that_replaced_the_first(tmp_path, monkeypatch, links):
    def refuse(*_args, **_options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not links:
        monkeypatch.setattr("os.link", refuse)
    source, target = tmp_path / "a", tmp_path / "below" / "b"
    for content in ("old", "new"):
        write_atomic(source, content)
        for _ in range(2):
            link_or_copy(source, target)
            assert target.read_text() == content
    assert [path.name for path in target.parent.iterdir()] == ["b"]
    assert target.samefile(source) == links


def test_a_failure_is_a_record_that_a_block_replaces(store):
    store.fail(Failure(key=IDENTITY.key, identity=IDENTITY, reason="RuntimeError: x"))
    assert store.failed_keys() == {IDENTITY.key}
    assert store.failure(IDENTITY.key).reason == "RuntimeError: x"
    assert store.keys() == set()
    fill(store, block(0))
    assert store.failed_keys() == set()
    assert store.keys() == {IDENTITY.key}


def test_scraps_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(tmp_path):
    """The child is killed between writing its temporary file and moving it into place."""
    script = (
        "import os, signal, sys; from pathlib import Path; from aurac import files\n"
        "files.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_json(Path(sys.argv[1]) / 'x.json', [1])\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 1
    mine = tmp_path / f".y.json.{process_mark()}.abc"
    mine.write_text("{")
    assert sweep_scraps(tmp_path) == 1
    assert list(tmp_path.iterdir()) == [mine]
    (tmp_path / "documents").mkdir()
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "documents")], check=False)
    assert len(list((tmp_path / "documents").iterdir())) == 1
    CellStore(tmp_path).tidy()
    assert list((tmp_path / "documents").iterdir()) == []


def test_nan_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_metric_that_is_no_finite_number_is_refused(store, value):
    with pytest.raises(ValueError, match="metric acc,none is not a finite number"):
        fill(store, block(0, value=value))
    with pytest.raises(ValueError, match="metric mcc is not"):
        store.append(IDENTITY, Aggregates(documents_sha256="", values={"mcc": value}), 1)
    assert store.keys() == set()


def test_text_that_utf8_cannot_hold_is_spelled_out(store):
    """A model's answer may end within a character."""
    store.append(IDENTITY, make_block([KEYS[0]], {"acc,none": [1]}, ["a\ud800"]), 1)
    assert store.read(IDENTITY.key).responses == ["a\\ud800"]


def test_what_forbids_a_comparison():
    a = IDENTITY.to_dict()
    assert differences(a, make_identity(rank=8, rescale="keep", adapter_sha256="z").to_dict()) == []
    other = make_identity(dtype="bfloat16", split="validation").to_dict()
    assert differences(a, other) == ["split", "dtype"]


# Packed -----------------------------------------------------------------------------------------


def test_a_packed_cell_is_read_and_grows_as_one_in_a_file(store):
    path = fill(store, block(0, 1))
    content, cell = path.read_bytes(), store.read(IDENTITY.key)
    archive = pack(store.folder)
    finished = CellStore(store.run_folder)
    assert (finished.keys(), finished.count(IDENTITY.key)) == ({IDENTITY.key}, 2)
    for again in (finished.read(IDENTITY.key), read_cell(path)):
        assert vars(again) == vars(cell)
    assert (finished.count("0"), finished.read("0")) == (0, None)
    assert not store.folder.exists()

    link_or_copy(path, store.run_folder / "copy")
    assert (store.run_folder / "copy").read_bytes() == content
    finished.append(IDENTITY, block(2, 3), 4)
    assert path.read_bytes().startswith(content)
    assert finished.count(IDENTITY.key) == 4
    assert [key.id for key in finished.read(IDENTITY.key).documents] == ["0", "1", "2", "3"]
    archive.unlink()
    assert CellStore(store.run_folder).keys() == {IDENTITY.key}


def test_a_cell_in_a_file_comes_before_its_packed_copy(store):
    path = fill(store, block(0, 1))
    content = path.read_bytes()
    pack(store.folder)
    path.parent.mkdir()
    path.write_bytes(content[:-20])
    assert CellStore(store.run_folder).count(IDENTITY.key) == 0
    assert read_cell(path).damaged == 1


def test_members_outside_the_folder_are_no_files_of_it(tmp_path):
    link, sparse = tarfile.TarInfo("cells/link"), tarfile.TarInfo("cells/sparse")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    sparse.type = tarfile.GNUTYPE_SPARSE
    names = ("../a", "/cells/b", "cells/../c", "other/d", "./cells/e", "cells/f/g", "cells")
    with tarfile.open(tmp_path / "cells.tar.xz", "w:xz") as tar:
        for member in (link, sparse, *map(tarfile.TarInfo, names)):
            tar.addfile(member)
    assert packed(tmp_path / "cells").keys() - {""} == {"e", "f/g"}
    assert CellStore(tmp_path).keys() == set()


@pytest.mark.parametrize("damage", ["cut off", "flipped", "no archive", "large"])
def test_an_archive_that_cannot_be_read_is_one_clear_error(store, damage, monkeypatch):
    path = fill(store, block(0, 1))
    archive = pack(store.folder)
    content = bytearray(archive.read_bytes())
    if damage == "large":
        monkeypatch.setattr("aurac.files._LARGEST", 1000)
    elif damage == "cut off":
        del content[-200:]
    elif damage == "no archive":
        content = lzma.compress(b"cells" * 1000)
    else:
        content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    said = r"cells.tar.xz cannot be read \(.*\); restore it$"
    if damage == "large":
        said = "cells.tar.xz has more than 1,000 bytes unpacked; unpack it with `tar xJf"
    with pytest.raises(RunFolderError, match=said):
        read_cell(path)
