"""An adapter with its base and tasks, and a server for them."""

from __future__ import annotations

import threading

import pytest
from harness_doubles import (
    make_model,
    make_tokenizer,
    stay_offline,
    write_choice_task,
    write_text_task,
)
from support.adapters import save_with_peft
from support.completions import KEY, Server

from aurac.adapters import load_adapter, save_adapter


@pytest.fixture
def server():
    found = Server()
    thread = threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("place")
    make_model(1).save_pretrained(root / "BASE")
    make_tokenizer().save_pretrained(root / "BASE")
    save_with_peft(
        make_model(1), root / "peft", seed=4, r=4, target_modules=["q_proj", "v_proj"],
        use_rslora=True,
    )  # fmt: skip
    save_adapter(load_adapter(root / "peft", method="lora", base=str(root / "BASE")), root / "mine")
    path = write_choice_task(root / "tasks")
    mcc = "  - metric: mcc\n    aggregation: matthews_corrcoef\n    higher_is_better: true\n"
    path.write_text(path.read_text().replace(mcc, ""))
    write_text_task(root / "tasks")
    return root


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        stay_offline(patch, tmp_path_factory.mktemp("hf"))
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "machine")
        patch.setattr("tenacity.nap.time.sleep", lambda _seconds: None)
        patch.setenv("OPENAI_API_KEY", KEY)
        yield
