"""What the check of a server finds, and how it says so: by `compare` first, and `check-server`."""

from __future__ import annotations

import json
import sys
import time

import pytest
from click.testing import CliRunner
from support.completions import KEY, Server, compared, over_http

from aurac.backends.check import NotComputedError
from aurac.backends.keys import hide, redacted
from aurac.cli import cli, main
from aurac.errors import CellError

pytest.importorskip("tenacity", reason="lm-eval's client needs aurac[servers]")
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("alone")]


@pytest.fixture
def unchecked(monkeypatch):
    """What a server answers is taken without a check before."""
    monkeypatch.setattr("aurac.runs.check.verdicts", lambda *_: iter(()))
    monkeypatch.setattr("aurac.backends.server.ServerBackend.scores", True)


def empty(choice):
    return {**choice, "text": ""}


@pytest.mark.parametrize(("twist", "says"), [
    ({"writes_base": True}, "the adapter is ignored in texts"),
    ({"samples": True}, "its texts differ"),
    ({"wrapped": "[user]\n"}, "its texts differ"),
    ({"most_tokens": 2}, "its texts differ"),
    ({"text": empty}, "its texts differ: '' where"),
    ({"stops": False, "most_tokens": 2}, "its texts differ"),
    ({"most_prompt": 48, "echoes": False}, "its texts differ"),
    ({"without": ("v_proj",)}, "log-probabilities differ by"),
    ({"without": ("layers.1.",)}, "log-probabilities differ by"),
    ({"scale": 0.0}, "the adapter is ignored"),
    ({"scale": 0.0, "echoes": False}, "the adapter is ignored in texts"),
    ({"scale": 2.0}, "the adapter is scaled by 2"),
    ({"scale": 0.95}, "log-probabilities differ by|is scaled by 0.9"),
    ({"scale": float("nan")}, "no finite numbers"),
])  # fmt: skip
def test_what_a_run_would_show_as_the_adapters_accuracy_ends_it(
    place, server, tmp_path, twist, says
):
    vars(server).update(twist)
    with pytest.raises(NotComputedError, match=says) as caught:
        compared(place, tmp_path / "run", tasks=["tiny_text"], **over_http(server))
    assert caught.value.exit_code == 4
    assert not list((tmp_path / "run").glob("cells/*"))


def test_a_base_whose_log_probabilities_are_nan_is_not_called_another_model(
    place, server, tmp_path, monkeypatch
):
    model = Server.model

    def broken(self, name):
        found = model(self, name)
        found.get_output_embeddings().weight.data.fill_(float("nan"))
        return found

    monkeypatch.setattr(Server, "model", broken)
    with pytest.raises(NotComputedError, match="base: its log-probabilities are no finite numbers"):
        compared(place, tmp_path / "run", tasks=["tiny_choice"], **over_http(server))


@pytest.mark.parametrize("packs", ["gzip", "br"])
@pytest.mark.usefixtures("unchecked")
def test_a_compressed_answer_that_nobody_asked_for_is_read_or_not_shown(
    place, server, tmp_path, packs
):
    """An error's text is shown where the client can unpack it; bytes never are."""
    server.always, server.packs = 400, packs
    how = over_http(server, max_retries=1)
    stored, _ = compared(place, tmp_path / "run", tasks=["tiny_text"], **how)
    reason = stored.failures[0].reason
    assert "answers 400 Bad Request" in reason
    assert ("Accept-Encoding" in reason) == (packs == "gzip"), reason
    assert reason.isprintable(), reason
    assert "\\u" not in reason
    assert "\ufffd" not in reason


def test_prompts_that_are_cut_are_seen_by_their_log_probabilities(place, server, tmp_path):
    server.most_prompt = 48  # the longest is longer
    with pytest.raises(CellError, match="no log-probability for each token"):
        compared(place, tmp_path / "run", tasks=["tiny_choice"], **over_http(server))


@pytest.mark.parametrize("twist", [{"longest": 48}, {"longest": 48, "echoes": False}])
def test_what_lm_eval_cuts_itself_is_no_mistake(place, server, tmp_path, twist):
    """Prompts that are longer than the server takes."""
    vars(server).update(twist)
    stored, _ = compared(place, tmp_path / "run", tasks=["tiny_text"], **over_http(server))
    assert not stored.failures


def test_the_trained_and_the_smallest_rank_are_checked_once(
    place, server, tmp_path, monkeypatch, capsys
):
    """The verdict is kept for the same server, base and adapter; it is asked for all else."""
    how = {"tasks": ["tiny_text"], "progress": True, **over_http(server)}

    def lines(out, **more):
        compared(place, out, **how, **more)
        said = [line for line in capsys.readouterr().err.splitlines() if "should be" in line]
        return [line.split(":")[1].strip() for line in said]

    assert lines(tmp_path / "run", limit=4) == ["base", "mine at rank 4", "mine at rank 1"]
    assert len(json.loads((tmp_path / "run" / "checked.json").read_text())) == 2
    asked = len(server.asked)
    assert lines(tmp_path / "run", limit=5) == []
    assert len(server.asked) == asked + 4 * 1  # one more example at three ranks and of the base
    assert len(lines(tmp_path / "other")) == 3
    monkeypatch.setattr("aurac.runs.check.verdicts", lambda *_: pytest.fail("it is checked"))
    assert lines(tmp_path / "unchecked", check=False) == []


def test_a_wrong_verdict_is_not_kept(place, server, tmp_path):
    server.keeps_first = True  # the trained rank, which is asked before the smallest
    how = {"tasks": ["tiny_text"], **over_http(server)}
    with pytest.raises(NotComputedError, match="mine at rank 1: its log-probabilities differ by"):
        compared(place, tmp_path / "run", **how)
    server.keeps_first = False
    assert not compared(place, tmp_path / "run", **how)[0].failures


@pytest.mark.parametrize(("other", "named"), [("4", "rank 4"), (None, "the base")])
def test_what_two_cuts_do_not_show_the_cells_show(
    place, server, tmp_path, monkeypatch, caplog, other, named
):
    model = Server.model

    def swapped(self, name):
        swap = [each for each in self.adapters if f"-r{other}-" in each] or ["BASE"]
        return model(self, swap[0] if "-r2-" in name else name)

    how = {"tasks": ["tiny_choice"], **over_http(server)}
    compared(place, tmp_path / "right", **how)
    assert "has the log-likelihoods" not in caplog.text
    monkeypatch.setattr(Server, "model", swapped)
    compared(place, tmp_path / "swapped", **how)
    said = [line.message for line in caplog.records if "has the log-likelihoods" in line.message]
    pair = {"rank 2", named} if other else {"rank 2", "the base"}
    assert len(said) == 1
    assert all(each in said[0] for each in pair), said


@pytest.mark.parametrize(("twist", "reason"), [
    ({"text": lambda choice: {**choice, "text": None}}, "answers without a text"),
    ({"text": lambda choice: {"index": choice["index"]}}, "answers without a text"),
    ({"most_choices": 0}, "answers 0 of 1 prompts"),
    ({"always": "garbage"}, "what is no JSON: <html>"),
    ({"always": "no choices"}, "answers 0 of 1 prompts"),
])  # fmt: skip
@pytest.mark.parametrize("concurrent", [1, 4])
@pytest.mark.usefixtures("unchecked")
def test_an_answer_that_is_none_is_an_error_of_the_cell(
    place, server, tmp_path, twist, reason, concurrent
):
    vars(server).update(twist)
    how = over_http(server, num_concurrent=concurrent, max_retries=1)
    stored, _ = compared(place, tmp_path / "run", tasks=["tiny_text"], **how)
    assert len(stored.failures) == 4
    assert all(reason in failure.reason for failure in stored.failures), stored.failures
    assert all(f"127.0.0.1:{server.server_address[1]}" in f.reason for f in stored.failures)
    assert not stored.curves


@pytest.mark.usefixtures("unchecked")
def test_keys_reach_the_server_and_no_file_log_or_screen(place, server, tmp_path, capsys, caplog):
    """Nor where a server repeats them in an error; and no report is named that was not written."""
    args = f"base_url={server.url},auth_token=hf_also_secret"
    how = {"tasks": ["tiny_text"], "model": "local-completions"}
    command = f"aurac compare mine --model-args {args}"
    compared(place, tmp_path / "run", model_args=args, command=command, **how)
    assert server.keys == {f"Bearer {KEY}"}
    server.always = server.loads = 400
    with pytest.raises(CellError, match="answers 400 Bad Request") as caught:
        compared(place, tmp_path / "load", model_args=args, **how)
    server.loads = True
    task, args = place / "tasks" / "tiny_text.yaml", f"base_url={server.url},max_retries=1"
    words = ["compare", place / "mine", "--tasks", task, "--out", tmp_path / "command"]
    words += ["--model", how["model"], "--model-args", args]
    done = CliRunner().invoke(cli, list(map(str, words)), standalone_mode=False)
    assert done.return_value == 3, done.output
    assert "answers 400 Bad Request" in done.output
    assert "report:" not in done.output
    header = {"Authorization": "Bearer sk-of-the-header", "X": "also-secret"}
    more = over_http(server, max_retries=1, header=header)
    stored, _ = compared(place, tmp_path / "header", progress=True, **{**how, **more})
    assert "answers 400 Bad Request" in stored.failures[0].reason
    shown = [str(caught.value), done.output, *capsys.readouterr(), caplog.text]
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in (KEY, "hf_also_secret", "sk-of-the-header", "also-secret"):
        assert not any(secret.encode() in text for text in kept)
        assert not any(secret in text for text in shown)


def test_keys_are_known_by_their_value(monkeypatch):
    hide({"api_key": "key-in-arguments", "base_url": "http://me:password1@host/v1"})
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    text = redacted("key-in-arguments me:password1 bWU6cGFzc3dvcmQx EMPTY")
    assert text == "… … … EMPTY"  # a short one is no key
    hide({"base_url": "http://u:pw@h/v1", "header": "abc"})  # but in a command it may be
    command = "--model-args base_url=http://u:pw@h/v1,header=abc"
    assert redacted(command, 1) == "--model-args base_url=http://…@h/v1,header=…"


@pytest.fixture
def checked(place, server, monkeypatch, capsys, tmp_path):
    """Runs `aurac check-server`: its exit code, what it prints, and what it says besides."""
    monkeypatch.setenv("AURAC_CACHE", str(tmp_path))

    def run(*more):
        words = ["check-server", server.url, str(place / "mine"), "--dtype", "float32"]
        monkeypatch.setattr(sys, "argv", ["aurac", *words, "--prompts", "4", *more])
        with pytest.raises(SystemExit) as caught:
            main()
        return caught.value.code, *capsys.readouterr()

    return run


def test_check_server(server, checked):
    code, told, besides = checked("--json")
    assert code == 0, besides
    rows = json.loads(told)["ranks"]
    assert [row["rank"] for row in rows] == [0, 1, 2, 4]
    assert all(row["right"] and row["texts"] == [4, 4] for row in rows)
    assert "4 prompts for rank 2" in besides
    server.scale = 0.0
    code, told, _ = checked()
    assert code == 4, told
    assert told.count("the adapter is ignored") == 3, told


def test_only_what_is_asked_for_is_loaded_and_it_is_unloaded(place, server, checked):
    code, _, besides = checked("--ranks", "2")
    assert code == 0, besides
    assert {name.split("-")[1] for name in set(server.asked) - {"BASE"}} == {"r2"}
    assert not server.adapters
    server.adapters = {"production": str(place / "mine")}
    server.loads = False
    code, _, besides = checked("--served-name", "production=4")
    assert code == 0, besides
    assert set(server.asked[-9:]) == {"production"}
    assert list(server.adapters) == ["production"]
    code, _, besides = checked("--served-name", "other=4")
    assert (code, besides.strip()[-10:]) == (2, "no 'other'")


@pytest.mark.parametrize(("always", "code", "says"), [
    (401, 2, "answers 401 Unauthorized"), (404, 2, "answers 404 Not Found"),
    (429, 3, "answers 429 Too Many Requests"), (500, 3, "answers 500 Internal"),
    ("garbage", 3, "answers what is no JSON: <html>"), ("no choices", 3, "answers 0 of 1"),
    ("drop", 3, "Remote end closed"),
    ("slow", 3, "does not answer (Read timed out. (read timeout=1.0)"),
])  # fmt: skip
def test_exit_code_4_is_for_wrong_answers_alone(server, checked, always, code, says):
    server.always, began = always, time.monotonic()
    status, _, said = checked("--timeout", "1", "--dtype", "auto")
    assert status == code, said
    assert says in said.rpartition("aurac: error: ")[2]
    assert KEY not in said
    assert time.monotonic() - began < 60
