"""Safetensors files that lie, and the command line that has to refuse them."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import resource
import struct
import sys
import time
from pathlib import Path

from aurac.cli import main

KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def refused(path, *flags, **overrides):
    """The one line of ``aurac inspect``, with exit code 2, within 5 s and 500 MB, nothing written.

    The command runs in this process, so that memory is what it adds to what Python had before.
    """
    place = path if path.is_dir() else path.parent
    before = sorted(place.iterdir())
    with contextlib.suppress(OSError):  # Linux: a peak of what ran before would hide this one's
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    peak, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    for key, value in overrides.items():
        flags = (*flags, f"--{key.replace('_', '-')}", str(value))
    code, out, err = run_aurac("inspect", path, *flags)
    assert time.monotonic() - start < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 500 * 1024
    assert sorted(place.iterdir()) == before
    assert (code, out) == (2, "")
    assert err.startswith("aurac: error: ")
    assert err.endswith("\n")
    return one_line(err.removeprefix("aurac: error: ").removesuffix("\n"))


def run_aurac(*arguments):
    """Exit code, stdout and stderr of the command line itself."""
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["aurac", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        return end.code, out.getvalue(), err.getvalue()
    finally:
        sys.argv = argv


def one_line(error):
    message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 1500
    return message


def folder_with(tmp_path, good, *, config=None, weights=None):
    folder = tmp_path / "case"
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes(
        (good / "adapter_config.json").read_bytes() if config is None else config
    )
    (folder / "adapter_model.safetensors").write_bytes(
        (good / "adapter_model.safetensors").read_bytes() if weights is None else weights
    )
    return folder


def header(entries, *, data=b"", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(4, 32), offsets=(0, 512)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


LYING = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "a header of exabytes": struct.pack("<Q", 2**60) + b"{}",
    "a header past the end": header({KEY: entry()}, length=10_000),
    "no JSON": header(b"not json at all"),
    "not UTF-8": header(b'{"\xff\xfe": 1}'),
    "a list": header(b"[1, 2]"),
    "a number": header(b"1"),
    "deep nesting": header(b"[" * 200_000),
    "an entry that is a string": header({KEY: "F32"}),
    "a huge shape": header({KEY: entry(shape=(2**31, 2**31))}, data=b"\0" * 512),
    "an overflowing shape": header({KEY: entry(shape=(2**63, 2**63))}, data=b"\0" * 512),
    "a huge extent": header(
        {KEY: entry(shape=(2**20, 2**20), offsets=(0, 2**42))}, data=b"\0" * 512
    ),
    "a negative shape": header({KEY: entry(shape=(-4, 32))}, data=b"\0" * 512),
    "a float shape": header({KEY: entry(shape=(4.5, 32))}, data=b"\0" * 512),
    "reversed offsets": header({KEY: entry(offsets=(512, 0))}, data=b"\0" * 512),
    "offsets past the end": header({KEY: entry(offsets=(0, 5120))}, data=b"\0" * 512),
    "a gap": header({KEY: entry(offsets=(8, 520))}, data=b"\0" * 520),
    "a tail": header({KEY: entry()}, data=b"\0" * 600),
    "an unknown type": header({KEY: entry(dtype="F7")}, data=b"\0" * 512),
    "a lying type": header({KEY: entry(dtype="F64")}, data=b"\0" * 512),
    "a key twice": header(
        b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        b' "a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        data=b"\0" * 4,
    ),
    "a factor twice": header(
        json.dumps({KEY: entry(), "twice": entry(offsets=(512, 1024))})
        .replace("twice", KEY)
        .encode(),
        data=b"\0" * 1024,
    ),
    "overlapping tensors": header({KEY: entry(), KEY.replace("A", "B"): entry()}, data=b"\0" * 512),
    "no tensors": header({}),
    "metadata alone": header({"__metadata__": {"format": "pt"}}),
    "a path as a name": header({"../../etc/passwd": entry()}, data=b"\0" * 512),
    "a zip": b"PK\x03\x04" + b"\0" * 100,
    "a pickle": pickle.dumps({"a": 1}),
    "text": b"hello, world" * 10,
}
