"""`aurac doctor` names what is missing and how to get it, and works without what it looks for."""

from __future__ import annotations

import builtins
import http.server
import json
import os
import subprocess
import sys
import threading
from importlib import metadata

import pytest
from click.testing import CliRunner

from aurac.cli import cli
from aurac.models.device import SPINNING
from aurac.models.packaged import DEFAULT_BASE, packaged_folder
from aurac.runs import doctor


def finding(what: str, found: list[doctor.Finding]) -> doctor.Finding:
    [one] = [f for f in found if f.what == what]
    return one


@pytest.fixture
def here(isolated_cache):
    return lambda: doctor.examine(network=False)


def test_this_machine_is_ready(isolated_cache):
    done = CliRunner().invoke(cli, ["doctor", "--offline", "--json"], standalone_mode=False)
    content = json.loads(done.output)
    states = {f["what"]: f["state"] for f in content["findings"]}
    assert content["ready"] is (done.return_value == 0)
    assert {states["python"], states["packages"], states["torch"], states["processor"]} == {"ok"}


def test_facts_are_those_of_the_libraries(here):
    torch = pytest.importorskip("torch")
    facts = finding("torch", here()).facts
    assert facts["version"] == torch.__version__
    assert facts["threads"] == torch.get_num_threads()
    assert finding("packages", here()).facts["peft"] == metadata.version("peft")


@pytest.mark.parametrize(
    ("settings", "state", "found"),
    [
        ({"OMP_WAIT_POLICY": "passive"}, "ok", "sleep (OMP_WAIT_POLICY=passive)"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "note", "as you set them: OMP_WAIT_POLICY=ACTIVE"),
        ({"GOMP_SPINCOUNT": "100"}, "note", "as you set them: GOMP_SPINCOUNT=100"),
        ({}, "note", "spin: slow beside busy processes"),
    ],
)
def test_how_threads_wait(here, monkeypatch, settings, state, found):
    for name in SPINNING:
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    waiting = finding("waiting threads", here())
    assert (waiting.state, waiting.found) == (state, found)
    assert (waiting.facts or {}) == settings


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_the_command_line_sets_how_threads_wait_before_torch_loads(given, tmp_path):
    """OpenMP's own words, printed when torch loads it; what the user set stays."""
    environment = {name: value for name, value in os.environ.items() if name not in SPINNING}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    environment |= {"OMP_DISPLAY_ENV": "TRUE", "AURAC_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "aurac", "doctor", "--offline"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert f"OMP_WAIT_POLICY={given or 'PASSIVE'}" in done.stdout
    [reported] = [line for line in done.stderr.splitlines() if "OMP_WAIT_POLICY" in line]
    assert f"'{given or 'PASSIVE'}'" in reported


def test_a_version_out_of_range_and_an_absent_package_are_problems(here, monkeypatch):
    real = metadata.version

    def version(name: str) -> str:
        if name == "peft":
            return "0.5.0"
        if name == "gguf":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = here()
    peft, gguf = finding("peft", found), finding("gguf", found)
    assert peft.state == gguf.state == "problem"
    assert peft.found.startswith("0.5.0, wanted")
    assert gguf.found == "not installed"
    assert gguf.advice.startswith("pip install 'gguf")
    done = CliRunner().invoke(cli, ["doctor", "--offline"], standalone_mode=False)
    assert done.return_value == 1
    assert "not ready: " in done.output
    assert "peft" in done.output.splitlines()[-1]


def test_a_missing_extra_is_a_note_only(here, monkeypatch):
    real = metadata.version

    def version(name: str) -> str:
        if name == "hypothesis":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    extra = finding("extra test", here())
    assert extra.state == "note"
    assert "hypothesis" in extra.found
    assert extra.advice == "pip install -e '.[test]'"


def test_without_torch_it_still_answers(here, monkeypatch):
    real = builtins.__import__

    def without_torch(name, *args, **kwargs):
        if name == "torch":
            raise ImportError("libtorch is gone")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    found = finding("torch", here())
    assert found.state == "problem"
    assert found.found == "libtorch is gone"


def test_the_packaged_base_is_seen_only_when_it_is_whole(here, isolated_cache):
    assert finding("packaged base", here()).facts["here"] is False
    assert packaged_folder(DEFAULT_BASE) is None
    folder = isolated_cache / "bases" / f"{DEFAULT_BASE}-1"
    folder.mkdir(parents=True)
    assert packaged_folder(DEFAULT_BASE) is None  # its record is written last
    (folder / "aurac_base.json").write_text("{}")
    assert packaged_folder(DEFAULT_BASE) == folder
    assert finding("packaged base", here()).state == "ok"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_cache_that_cannot_be_written_is_a_problem(here, isolated_cache):
    isolated_cache.mkdir()
    isolated_cache.chmod(0o500)
    assert finding("cache folder", here()).state == "problem"


def test_little_memory_is_noted(here, monkeypatch):
    monkeypatch.setattr(doctor, "_memory_limit", lambda: 1 << 30)
    found = finding("memory", here())
    assert found.state == "note"
    assert found.facts["total"] == 1 << 30


class Answer(http.server.BaseHTTPRequestHandler):
    """Answers every request with 404, as a hub may for its root."""

    def do_HEAD(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_):
        pass


def test_a_hub_that_answers_is_reachable_and_a_silent_one_is_not(isolated_cache, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    assert finding("hub", doctor.examine()).facts["reachable"] is True
    server.shutdown()
    server.server_close()
    silent = finding("hub", doctor.examine(timeout=1.0))
    assert silent.state == "note"
    assert "--data" in silent.advice
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert finding("hub", doctor.examine()).found == "HF_HUB_OFFLINE is set"
