"""What the check of a server finds, and how it says so: by `compare` first, and `check-server`."""

from __future__ import annotations

import json
import sys
import time

import pytest
from click.testing import CliRunner
from harness_doubles import make_model
from support.adapters import load_with_peft
from support.completions import KEY, Server, compared, over_http

from aurac.adapters import load_adapter, save_adapter, truncate
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
    ({"writes_base": True}, "writes as the base does"),
    ({"samples": True}, "one prompt got two texts"),
    ({"wrapped": "[user]\n"}, "where greedy decoding gives"),
    ({"most_tokens": 2}, "where greedy decoding gives"),
    ({"text": empty}, "it writes '' where"),
    ({"most_prompt": 48, "echoes": False}, "where greedy decoding gives"),
    ({"without": ("v_proj",)}, "partly applied: v_proj"),
    ({"without": ("layers.1.self_attn.q_proj", "layers.1.self_attn.v_proj")},
     "partly applied: layer 1"),
    ({"scale": 0.0}, "as the base does"),
    ({"scale": 0.0, "echoes": False}, "as the base does"),
    ({"scale": 0.5}, "alpha/r and should be alpha/√r|half of what it should be"),
    ({"scale": float("nan")}, "no finite numbers"),
    ({"scale": 1.02}, "scale is about 1.02 times"),
    ({"scale": 0.7}, "as no known mistake does|scale is about 0.7"),
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


@pytest.mark.parametrize(
    "twist", [{"longest": 48}, {"longest": 48, "echoes": False}, {"stops": False}]
)
def test_what_lm_eval_cuts_itself_is_no_mistake(place, server, tmp_path, twist):
    """Prompts that are longer than the server takes, and what is written beyond a stop string."""
    vars(server).update(twist)
    stored, _ = compared(place, tmp_path / "run", tasks=["tiny_text"], **over_http(server))
    assert not stored.failures


def test_every_rank_is_checked_and_the_verdicts_are_shown(
    place, server, tmp_path, monkeypatch, capsys
):
    how = over_http(server)
    compared(place, tmp_path / "right", tasks=["tiny_text"], progress=True, **how)
    lines = [line for line in capsys.readouterr().err.splitlines() if "should be" in line]
    assert [line.split(":")[1].strip() for line in lines] == [
        "base", "mine at rank 4", "mine at rank 1", "mine at rank 2",
    ]  # fmt: skip
    first = tmp_path / "r1"
    save_adapter(truncate(load_adapter(place / "mine"), 1), first)
    model = Server.model

    def swapped(self, name):
        return load_with_peft(make_model(1), first) if "-r2-" in name else model(self, name)

    monkeypatch.setattr(Server, "model", swapped)
    with pytest.raises(NotComputedError, match="rank 2: it computes rank 1"):
        compared(place, tmp_path / "swapped", tasks=["tiny_text"], **how)


@pytest.mark.parametrize(("twist", "reason"), [
    ({"text": lambda choice: {**choice, "text": None}}, "answers without a text"),
    ({"text": lambda choice: {"index": choice["index"]}}, "answers without a text"),
    ({"most_choices": 0}, "answers 0 of 1 prompts"),
    ({"always": "garbage"}, "what is no JSON: <html>"),
    ({"always": "no choices"}, "answers 0 of 1 prompts"),
    ({"always": "long"}, "too long a text"),
    ({"always": "huge"}, "more than 64 MiB"),
    ({"always": "bomb"}, "what is no JSON"),
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
    assert all(row["right"] and row["texts"] == [5, 5] for row in rows)
    assert "4 prompts for rank 2" in besides
    server.scale = 0.0
    code, told, _ = checked()
    assert code == 4, told
    assert told.count("does not compute the adapter") == 3, told


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
    ("drop", 3, "does not answer (ConnectionError)"), ("slow", 3, "does not answer within 1 s"),
])  # fmt: skip
def test_exit_code_4_is_for_wrong_answers_alone(server, checked, always, code, says):
    server.always, began = always, time.monotonic()
    status, _, said = checked("--timeout", "1", "--dtype", "auto")
    assert status == code, said
    assert says in said.rpartition("aurac: error: ")[2]
    assert KEY not in said
    assert time.monotonic() - began < 60
