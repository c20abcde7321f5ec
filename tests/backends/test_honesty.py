"""A small part of benchmarks/server_check.py: an honest server passes, dishonest ones do not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("tenacity", reason="lm-eval's client needs aurac[servers]")
ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("the benchmarks come with the sources only", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import server_check  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("alone")]


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "dtype"), [("lora", "bfloat16"), ("small", "float16")])
def test_honest_servers_pass_and_dishonest_ones_do_not(tmp_path, adapter, dtype):
    found = dict(server_check.checks(tmp_path, 1, adapter, dtype, [*server_check.KINDS]))
    assert found.keys() == server_check.KINDS.keys()
    assert not {kind: each for kind, each in found.items() if each.wrong(kind)}
    assert any("is ignored" in verdict.says for verdict in found["ignored"].verdicts)
