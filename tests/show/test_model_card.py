"""Model cards: what the hub's own parser reads back is what was measured."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard
from msgspec import structs
from report_runs import RunMaker, run_from, zoo_run

from aurac.adapters.methods import Dylora, Lora, Matryoshka, NestedLoss
from aurac.cli import cli
from aurac.curves.display import percent
from aurac.records.cut import Derived, TrainingRecord
from aurac.records.hub import ABOUT, METHODS
from aurac.records.requests import ModelFacts, RequestsHeader, StoredRequests
from aurac.records.results_file import AdapterRecord
from aurac.show import write_report
from aurac.show.findings import Findings
from aurac.show.model_card import card, cuts

pytestmark = pytest.mark.usefixtures("plain_figures")

HOSTILE = "---\nevil: true\n--- <script>alert(1)</script> [x](javascript:alert(1)) \x1b[31m"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cards")
    maker = zoo_run(folder, n=60)
    maker.write()
    return run_from(maker.results(), folder)


def text_of(run, name, **options):
    adapter = next(a for a in run.adapters if a.name == name)
    return card(run, adapter, Findings(run, 0.02).own, **options)


def test_the_hub_reads_back_every_number_of_the_default_curve(run):
    data = ModelCard(text_of(run, "matryoshka")).data
    curve = next(c for c in run.curves if c.adapter == "matryoshka" and c.is_default)
    assert data.base_model is None  # no repository has that name
    assert data.pipeline_tag == "text-generation"
    assert data.library_name == "peft"
    assert {"lora", "matryoshka", "aurac"} == set(data.tags)
    assert data.model_name == "matryoshka"
    found = {
        (r.metric_type, r.metric_args.get("rank")): r
        for r in data.eval_results
        if "rank" in r.metric_args
    }
    assert [rank for _, rank in found] == list(curve.ranks)
    for rank, value in zip(curve.ranks, curve.accuracy, strict=True):
        assert found["exact_match", rank].metric_value == pytest.approx(value, abs=1e-6)
    area = next(
        r for r in data.eval_results if r.metric_name == "AURAC, log2 axis, with the trained P"
    )
    assert area.metric_value == pytest.approx(curve.log2.value, abs=1e-6)
    assert area.metric_args["low_95"] == pytest.approx(curve.log2.low, abs=1e-6)
    assert area.dataset_name == "word_problems"
    assert area.dataset_args["num_fewshot"] == 0
    assert area.metric_args["rescale"] == "trained"
    areas = [r.metric_args for r in data.eval_results if r.metric_type == "aurac"]
    assert [area["axis"] for area in areas] == ["log2", "linear"]
    assert all(area["ranks"] == list(curve.ranks) for area in areas)


def test_the_text_says_the_same_and_names_the_published_inference(run):
    text = text_of(run, "matryoshka")
    curve = next(c for c in run.curves if c.adapter == "matryoshka" and c.is_default)
    for rank, value in zip(curve.ranks, curve.accuracy, strict=True):
        assert re.search(rf"^\| {rank} \| {percent(value)} ", text, re.MULTILINE)
    assert "as published (without P)" in text
    assert "as published" not in text_of(run, "lora")


def test_its_first_lines_say_on_how_many_documents(run, tmp_path):
    opening = text_of(run, "lora").split("\n## ")[0]
    assert opening.endswith(r" Measured on 60 documents of word\_problems." + "\n")
    maker = RunMaker(tmp_path, n=20).add("a", [0.2, 0.5], ranks=(1, 2), task="gsm8k")
    maker.tasks["gsm8k"]["limit"] = 20
    maker.write()
    write_report(tmp_path)
    text = (tmp_path / "cards/a.md").read_text()
    assert " Measured on the first 20 documents of gsm8k.\n" in text.split("\n## ")[0]


@pytest.mark.parametrize("margin", [None, 0.5])
def test_it_names_a_rank_where_a_margin_was_given_and_else_says_nothing_of_one(run, margin):
    adapter = next(a for a in run.adapters if a.name == "lora")
    text = card(run, adapter, Findings(run, margin).own)
    assert "margin" not in text
    assert ("Use rank " in text) is (margin is not None)


def test_what_is_not_above_the_base_is_said_without_a_margin(tmp_path):
    maker = RunMaker(tmp_path, n=60)
    maker.base["word_problems"] = maker.outcomes("word_problems", [0.95])[0]
    maker.add("a", [0.3, 0.6], ranks=(1, 2)).write()
    write_report(tmp_path)
    text = (tmp_path / "cards/a.md").read_text()
    assert "\n\nNo rank is recommended: nothing is shown to be above the base" in text


@pytest.mark.parametrize("margin", [None, 0.5])
def test_its_command_exists(run, margin):
    adapter = next(a for a in run.adapters if a.name == "lora")
    findings = Findings(run, margin)
    rank = findings.own["lora", "word_problems"].rank
    text = card(run, adapter, findings.own)
    line = next(row for row in text.splitlines() if row.startswith("aurac truncate"))
    smaller = rank if rank in (1, 2, 4, 8) else 8
    cut = f"--rank {smaller} --basis prefix --rescale rule --out ../rank-{smaller}"
    assert line == f"aurac truncate . {cut}"
    assert ("the rank recommended above" in text) is (smaller == rank)
    words = shlex.split(line)[1:]
    cli.get_command(None, words[0]).make_context(words[0], words[1:])


def test_a_card_of_one_rank_speaks_of_no_area(tmp_path):
    maker = RunMaker(tmp_path, n=20).add("cut", [0.5], ranks=(4,))
    maker.write()
    write_report(tmp_path)
    text = (tmp_path / "cards/cut.md").read_text()
    assert "AURAC" not in text.replace(ABOUT, "")
    assert "can be cut" not in text
    assert "aurac truncate" not in text
    assert "Measured at rank 4" in text


def test_the_card_of_a_cut_has_its_parent_every_step_and_no_truncation(tmp_path):
    """Its README is replaced by this card, which is then the only place that says so."""
    first = {"basis": "svd", "rescale": "keep", "rank": 8}
    maker = RunMaker(tmp_path, n=20).add("cut", [0.5], ranks=(4,))
    maker.adapters["cut"] |= {
        "method": None,
        "trained_rank": 4,
        "derived": first
        | {"rank": 4, "from_rank": 16, "from_sha256": "ab" * 32}
        | {"trained": {"method": "lora"}, "before": first},
    }
    maker.curves[0]["trained_rank"] = 4
    maker.write()
    write_report(tmp_path)
    text = (tmp_path / "cards/cut.md").read_text()
    paper = "[arXiv 2106.09685](https://arxiv.org/abs/2106.09685)"
    assert f"\n\nLoRA ({paper}) adapter of rank 4 for " in text
    steps = "rank 8 (basis svd, rescale keep), then rank 4 (basis svd, rescale keep)."
    parent = f"rank 16 (SHA-256 {'ab' * 32})"
    assert f", cut by SVD without training from {parent}: {steps}" in text
    assert "- truncation: none, measured whole\n" in text
    (result,) = ModelCard(text).data.eval_results
    assert {"basis", "rescale"}.isdisjoint(result.metric_args)


@pytest.mark.parametrize(("margin", "rank"), [(None, 16), (0.5, 4)])
def test_what_was_measured_with_p_is_loaded_from_a_cut_with_p(run, margin, rank):
    """PEFT knows no P: from the adapter's own folder it would load what was not measured."""
    adapter = next(a for a in run.adapters if a.name == "matryoshka")
    row = Findings(run, margin).own["matryoshka", "word_problems"]
    rank = row.rank or rank
    text = card(run, adapter, Findings(run, margin).own)
    before, _, snippet = text.partition("```python")
    command = (
        f"aurac truncate . --rank {rank} --basis prefix --rescale trained --out ../rank-{rank}"
    )
    assert command in before.splitlines()
    assert f'PeftModel.from_pretrained(base, "../rank-{rank}")' in snippet
    assert 'from_pretrained(base, ".")' not in text
    words = shlex.split(command)[1:]
    cli.get_command(None, words[0]).make_context(words[0], words[1:])
    assert 'from_pretrained(base, ".")' in text_of(run, "lora")
    measured = Derived(basis="prefix", rescale="trained", rank=16)  # its weights have P
    assert 'from_pretrained(base, ".")' in card(run, structs.replace(adapter, derived=measured), {})


def test_its_first_lines_say_that_the_numbers_are_not_of_the_weights_without_p(run):
    said = " of a cut with the trained P, not of this folder as PEFT loads it."
    for name in ("matryoshka", "lora", "dylora"):
        opening = text_of(run, name).split("\n## ")[0]
        assert (said in opening) is (name == "matryoshka")


def test_what_was_cut_by_svd_was_measured_with_p_too(run):
    """The SVD is of B · P · A, at the adapter's own rank as well."""
    curves = tuple(structs.replace(curve, basis="svd", rescale="keep") for curve in run.curves)
    svd = replace(run, curves=curves)
    lora, adapter = (
        next(a for a in run.adapters if a.name == name) for name in ("lora", "matryoshka")
    )
    text = card(svd, adapter, {})
    assert "aurac truncate . --rank 16 --basis svd --rescale keep --out ../rank-16" in text
    assert 'from_pretrained(base, ".")' not in text
    made = [card(one, cut, {}) for one, cut in cuts(svd, structs.replace(adapter, sha256="a"))]
    assert len(made) == 5
    assert all(" Its trained P is written into the weights." in text for text in made)
    assert 'from_pretrained(base, ".")' in card(svd, lora, {})


@pytest.mark.parametrize(
    ("chat", "system", "said"),
    [
        (True, "Be brief.", "prompts: with chat template, system prompt: Be brief.\n"),
        (False, None, "prompts: no chat template, no system prompt\n"),
    ],
)
def test_it_says_how_documents_were_prompted(tmp_path, chat, system, said):
    maker = RunMaker(tmp_path, n=20).add("a", [0.2, 0.5], ranks=(1, 2))
    maker.tasks["word_problems"]["chat_template"] = chat
    if system:
        maker.tasks["word_problems"]["system_instruction"] = system
    maker.write()
    write_report(tmp_path)
    text = (tmp_path / "cards/a.md").read_text()
    assert f"\n- {said}" in text
    args = ModelCard(text).data.eval_results[0].dataset_args
    assert (args["chat_template"], args.get("system_instruction")) == (chat, system)


def test_what_was_measured_with_fitted_factors_is_not_cut_by_command(run):
    adapter = next(a for a in run.adapters if a.name == "lora")
    curves = tuple(structs.replace(curve, rescale="fit") for curve in run.curves)
    text = card(replace(run, curves=curves), adapter, Findings(run, 0.5).own)
    assert "with fitted factors, which the files of adapters leave out" in text
    assert "aurac truncate" not in text


@pytest.mark.parametrize("name", ["lora", "matryoshka"])
def test_each_smaller_rank_has_the_card_of_its_cut(run, name):
    adapter = next(a for a in run.adapters if a.name == name)
    curve = next(c for c in run.curves if c.adapter == name and c.is_default)
    made = list(cuts(run, structs.replace(adapter, sha256="ab" * 32)))
    with_p = name == "matryoshka"
    last = None if with_p else -1  # with P its own rank is a cut, too
    assert [cut.trained_rank for _, cut in made] == list(curve.ranks[:last])
    for (one, cut), at in zip(made, range(len(curve.ranks)), strict=False):
        text = card(one, cut, {})
        (result,) = ModelCard(text).data.eval_results
        assert result.metric_value == pytest.approx(curve.accuracy[at], abs=1e-6)
        assert result.metric_args["rank"] == cut.derived.rank == curve.ranks[at]
        assert (cut.derived.basis, cut.derived.rescale) == (curve.basis, curve.rescale)
        smaller = cut.trained_rank < 16
        source = "rank 16" if smaller else "one of the same rank"
        parent = f" from {source} (SHA-256 {'ab' * 32}): {cut.derived.steps}."
        assert (parent + " Its trained P is written into the weights." in text) is with_p
        assert parent in text
        assert ("cut to its first components" in text or "cut by SVD" in text) is smaller
        line = next(row for row in text.splitlines() if row.startswith("aurac truncate"))
        assert line.endswith(f" --out {name}-rank-{cut.trained_rank}")
        words = shlex.split(line)[1:]
        asked = cli.get_command(None, words[0]).make_context(words[0], words[1:]).params
        assert asked["rank"] == cut.trained_rank
        assert (asked["basis"], asked["rescale"]) == (curve.basis, curve.rescale)
        assert result.metric_args["basis"] == curve.basis
        assert result.metric_args["rescale"] == curve.rescale
        assert "AURAC" not in text.partition("---\n\n")[2].replace(ABOUT, "")
    assert not list(cuts(run, structs.replace(adapter, sha256=None)))  # which adapter is not known


@pytest.mark.parametrize(
    ("method", "rescale", "said"),
    [
        ("matryoshka", "trained", " Its trained P is written into the weights."),
        ("matryoshka", "rule", " It is without P, as published."),
        ("dylora", "rule", ""),
    ],
)
def test_a_cut_says_whether_it_has_p(method, rescale, said):
    trained = TrainingRecord(method=method)
    made = Derived(basis="prefix", rescale=rescale, rank=4, from_rank=16, trained=trained)
    assert made.sentence(4, "An", "base").endswith(f"(basis prefix, rescale {rescale}).{said}")


def test_a_cut_that_is_not_exported_as_it_was_measured_has_no_card(run):
    adapter = next(a for a in run.adapters if a.name == "lora")
    adapter = structs.replace(adapter, sha256="ab" * 32)
    fitted = tuple(structs.replace(curve, rescale="fit") for curve in run.curves)
    assert not list(cuts(replace(run, curves=fitted), adapter))
    again = structs.replace(adapter, derived=Derived(basis="svd", rescale="keep", rank=16))
    assert not list(cuts(run, again))


def test_a_brief_card_has_the_areas_and_the_highest_rank_only(run):
    data = ModelCard(text_of(run, "lora", brief=True)).data
    assert [r.metric_args.get("rank") for r in data.eval_results] == [None, None, 16]


def test_a_hostile_name_stays_a_name(tmp_path):
    maker = RunMaker(tmp_path, n=20).add(HOSTILE, [0.2, 0.5], ranks=(1, 2), task="a: [b]\n- c")
    maker.write()
    write_report(tmp_path)
    paths = list((tmp_path / "cards").iterdir())
    assert len(paths) == 2  # of the adapter and of its cut
    for path in paths:
        text = path.read_text(encoding="utf-8")
        data = ModelCard(text).data
        assert "evil" not in data.to_dict()
        assert data.eval_results[0].dataset_name == "a: [b] - c"
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text)
        body = re.sub(r"(?ms)^(`{3,}).*?^\1$", "", text.split("\n---\n", 1)[1])
        assert "<script>" not in body
        assert "](javascript:" not in body.replace("\\](", "")


def test_every_method_has_its_title():
    assert {m.name: m.title for m in (Lora, Dylora, Matryoshka, NestedLoss)} == METHODS


def test_an_adapter_without_a_curve_gets_no_card(run):
    assert card(run, AdapterRecord(name="absent"), {}) is None


def test_the_licence_is_the_recorded_one_whatever_lies_in_that_place_now(run, tmp_path):
    adapter = next(a for a in run.adapters if a.name == "lora")
    (tmp_path / "README.md").write_text("---\nlicense: gpl-3.0\n---\n\n# another adapter\n")
    adapter = structs.replace(adapter, path=str(tmp_path))
    assert ModelCard(card(run, adapter, {})).data.license is None
    terms = {"license": "other", "license_name": "mine", "license_link": "LICENSE"}
    kept = dict(zip(("licence", "licence_name", "licence_link"), terms.values(), strict=True))
    adapter = structs.replace(adapter, **kept, sha256="ab" * 32)
    for one, each in ((run, adapter), *cuts(run, adapter)):
        assert terms.items() <= ModelCard(card(one, each, {})).data.to_dict().items()


def keep_header(maker, **config):
    """The first line of the file of a task's prompts: the data set of the hub, of 20 documents."""
    config = {"dataset_path": "openai/gsm8k", "dataset_name": "main"} | config
    for name, task in maker.tasks.items():
        task["requests"] = f"requests/{name}.jsonl.gz"
        header = RequestsHeader(
            task=name,
            config=config,
            version=3,
            higher_is_better={},
            original=20,
            chat_template=None,
            model=ModelFacts(
                parameters=1,
                max_length=None,
                eot_token_id=None,
                pad_token=[],
                eos_token=[],
                bos_token=[],
            ),
        )
        (maker.folder / "requests").mkdir(exist_ok=True)
        StoredRequests(header, []).write(maker.folder / task["requests"])


def gsm8k_run(folder, n, **config):
    maker = RunMaker(folder, n=n).add("a", [0.2, 0.5], ranks=(1, 2), task="gsm8k")
    keep_header(maker, **config)
    return maker


@pytest.mark.parametrize(
    ("n", "limit", "copy", "said"),
    [
        (20, None, False, "20 documents"),
        (20, 30, False, "20 documents"),  # a limit that leaves none out
        (15, 15, False, "the first 15 documents"),
        (20, None, True, "20 documents"),
    ],
)
def test_the_hubs_evaluation_results_name_the_data_set(tmp_path, n, limit, copy, said):
    """Only of whole tasks of the hub: first documents, or a copy, may be fewer."""
    maker = gsm8k_run(tmp_path, n, **({"custom_dataset": "x"} if copy else {}))
    maker.tasks["gsm8k"]["limit"] = limit
    maker.write()
    write_report(tmp_path)
    path = tmp_path / "cards/a.eval_results.yaml"
    assert path.exists() is (n == 20 and not copy)
    text = (tmp_path / "cards/a.md").read_text()
    assert f" Measured on {said} of gsm8k.\n" in text
    data = ModelCard(text).data
    assert {result.dataset_type for result in data.eval_results} == {"openai/gsm8k"}
    assert {result.dataset_split for result in data.eval_results} == {None}
    if path.exists():
        (entry,) = yaml.safe_load(path.read_text())
        assert entry["dataset"] == {"id": "openai/gsm8k", "task_id": "gsm8k"}
        assert entry["value"] == pytest.approx(100 * maker.curves[0]["accuracy"][-1])
        assert "no system prompt, 20 documents, adapter at rank 2" in entry["notes"]
        with contextlib.suppress(ImportError):  # in huggingface_hub since it knows this form
            from huggingface_hub import parse_eval_result_entries

            assert parse_eval_result_entries([entry])[0].dataset_id == "openai/gsm8k"


@pytest.mark.parametrize("groups", [{}, {"two": ["a", "b"]}])
def test_a_result_for_the_hub_is_of_the_weights_as_peft_loads_them(tmp_path, groups):
    """By SVD the highest rank is the same function, but rounding may change an answer."""
    maker = RunMaker(tmp_path, n=20)
    maker.add("a", [0.2, 0.9], ranks=(1, 2), task="gsm8k", basis="svd", rescale="keep")
    maker.add("a", [0.2, 0.4], ranks=(1, 2), task="gsm8k", role="published")
    if groups:  # a seed's own file, not the mean of the recipe
        maker.add("b", [0.1, 0.1], ranks=(1, 2), task="gsm8k", basis="svd", rescale="keep", seed=2)
        maker.add("b", [0.1, 0.1], ranks=(1, 2), task="gsm8k", role="published", seed=2)
    keep_header(maker)
    maker.write()
    write_report(tmp_path, groups=groups)
    (entry,) = yaml.safe_load((tmp_path / "cards/a.eval_results.yaml").read_text())
    by_svd, as_loaded = (curve["accuracy"][-1] for curve in maker.curves[:2])
    assert entry["value"] == pytest.approx(100 * as_loaded) != 100 * by_svd
    assert "at rank 2 (prefix, scaling rule) on tiny-base" in entry["notes"]
    said = re.search(r"\n```\n\nLoaded so, (.*)\n", (tmp_path / "cards/a.md").read_text())[1]
    assert re.match(rf"it has {100 * as_loaded:.1f} .* % on gsm8k\. Rank 2 above \(SVD, ", said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "Its base is a folder, "),
        (
            {"basis": "svd", "rescale": "keep"},
            "Loaded so, it was not measured. Rank 16 above (SVD, scale kept) is the same function ",
        ),
        ({"rescale": "fit"}, "Loaded so, it was not measured."),
        ({"trained_rank": 32}, "It loads rank 32, which was not measured."),
    ],
)
def test_what_the_snippet_loads_is_said_where_the_table_is_of_another_cut(run, changes, said):
    adapter = next(a for a in run.adapters if a.name == "lora")
    whole = changes.get("trained_rank", 16)
    curves = [structs.replace(c, **changes) for c in run.curves if c.adapter == "lora"]
    text = card(
        replace(run, curves=tuple(curves)), structs.replace(adapter, trained_rank=whole), {}
    )
    after = text.partition("its repository on the hub\n```\n\n")[2].split("\n")[0]
    assert after.startswith(said)


@pytest.mark.parametrize("folder", ["./gsm8k", "/data/gsm8k", "~/gsm8k"])
def test_a_data_set_in_a_folder_is_no_result_for_the_hub(tmp_path, folder):
    gsm8k_run(tmp_path, 20, dataset_path=folder).write()
    write_report(tmp_path)
    assert (tmp_path / "cards/a.md").exists()
    assert not (tmp_path / "cards/a.eval_results.yaml").exists()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_another_split_is_named_and_is_no_result_of_the_benchmark(tmp_path, split):
    maker = gsm8k_run(tmp_path, 20)
    content = maker.results()
    content["provenance"]["settings"]["split"] = split
    (tmp_path / "results.json").write_text(json.dumps(content))
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards/a.eval_results.yaml").touch()  # of an earlier report
    write_report(tmp_path)
    text = (tmp_path / "cards/a.md").read_text()
    assert f" Measured on 20 {split} documents of gsm8k.\n" in text
    assert {result.dataset_split for result in ModelCard(text).data.eval_results} == {split}
    # lm-eval itself takes the test split where there is one, and `split: test` needs one
    assert (tmp_path / "cards/a.eval_results.yaml").exists() is (split == "test")
