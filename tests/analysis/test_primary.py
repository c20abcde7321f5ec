"""Several sources that are analysed together."""

from __future__ import annotations

from pathlib import Path

from aurac.analysis.primary import read_sources
from aurac.curves.curve import Curve
from aurac.readers import Curves


def test_groups_of_one_name_in_two_sources_are_joined_with_a_warning(monkeypatch, caplog):
    def read(path, *_):
        member = path.name
        curve = Curve((1, 2), (0.1, 0.2), adapter=member, task="t")
        return Curves([curve], "run", {"recipe": [member]})

    monkeypatch.setattr("aurac.analysis.primary.read_curves", read)
    assert read_sources(["a", "b"], groups={}).groups == {"recipe": ["a", "b"]}
    assert "group recipe joins adapters of several sources: a, b" in caplog.text


def test_a_group_that_lacks_a_truncation_of_an_adapter_is_warned_of(caplog):
    run = Path(__file__).parents[2] / "reports/word_problems"
    read_sources([run], groups={"both": ["lora", "dylora"]})
    said = "group both, cut svd · keep, lacks dylora: these rows are of lora alone"
    assert caplog.messages == [said]
