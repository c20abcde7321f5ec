"""What the Hugging Face Hub reads of an adapter's `README.md`, and how to load the adapter."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from aurac.records.cut import Derived
from aurac.terminal import one_line

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


class Upstream(NamedTuple):
    """The repository of the hub that a packaged model was made from, and its licence there."""

    repository: str
    licence: str


UPSTREAM = {
    "smollm2-135m-instruct-q4_1": Upstream("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
}


class Licence(NamedTuple):
    """A licence as the front matter of a card has it; `other` comes with a name and a link."""

    licence: str | None
    name: str | None = None
    link: str | None = None


# Titles of `aurac.adapters.methods`, which reports do not load; a test holds them equal.
METHODS = {
    "lora": "LoRA (arXiv 2106.09685)",
    "dylora": "DyLoRA (arXiv 2210.07558)",
    "matryoshka": "MatryoshkaLoRA (arXiv 2605.07850)",
    "nested_loss": "nested losses (after arXiv 2205.13147)",
}


def method_title(method: str | None) -> str:
    """What a card calls the method of an adapter."""
    return METHODS.get(method or "", "low-rank (LoRA)")


def linked(text: str) -> str:
    """Markdown in which each paper of arXiv is a link."""
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", text)


ABOUT = linked("aurac evaluates and cuts low-rank adapters; its AURAC is that of arXiv 2605.07850.")


def published(base: str | None) -> str | None:
    """A base as other programs know it: a packaged one by its repository."""
    return UPSTREAM[base].repository if base in UPSTREAM else base


def hub_id(base: str | None) -> str | None:
    """The repository of a base model; None for a folder of this machine."""
    given = published(base) or ""
    name = given.partition("@")[0]  # before the revision
    parts = name.split("/")
    if len(parts) != 2 or len(name) > 96 or any(part[:1] in ("", ".", "~") for part in parts):
        return None  # no repository of the hub has a longer name
    return None if Path(given).exists() else one_line(name)


def recorded_base(base: str) -> str:
    """A base as results name it: before a folder that reads like a repository stands `./`."""
    folder = base.count("/") == 1 and base[0] not in "./~" and hub_id(base) is None
    return f"./{base}" if folder else base


def base_name(base: str | None) -> str:
    """What a card calls a base: a folder by its last part, as its path is of this machine alone."""
    if not base:
        return "its base model"
    return one_line(base if base in UPSTREAM or hub_id(base) else Path(base).name)


def front_matter(
    name: str,
    base: str | None,
    method: str | None,
    results: Sequence[EvalResult] = (),
    *,
    licence: Licence | None = None,
) -> str:
    """The YAML between the dashes that open a card, dashes included."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=hub_id(base),
        library_name="peft",
        license=licence and licence.licence,
        license_name=licence and licence.name,
        license_link=licence and licence.link,
        pipeline_tag="text-generation",
        model_name=one_line(name) if results else None,  # a name alone is no result
        tags=list(dict.fromkeys(["lora", one_line(method or "lora"), "aurac"])),
        eval_results=list(results) or None,
    )
    return f"---\n{to_yaml(data.to_dict())}---"  # type: ignore[no-untyped-call]


def to_yaml(content: Any) -> str:
    """YAML with keys in their order, by the fast writer where it was built."""
    import yaml

    writer = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    return str(yaml.dump(content, Dumper=writer, sort_keys=False, allow_unicode=True))


def loading_snippet(base: str | None, *, with_p: Derived | None = None) -> str:
    """Python that loads the adapter of this folder in plain PEFT, fenced as Markdown.

    `with_p` is a cut of an adapter with a trained P: before it stands how to write P into it.
    """
    first, folder, what = ("", ".", "this folder")
    if with_p is not None:
        folder, what = f"../rank-{with_p.rank}", "what the command wrote"
        first = f"""\
PEFT does not apply the trained P, a factor for each component: loaded as it is, this
adapter gives other answers. In this folder, the command writes P into the weights of a plain PEFT
adapter of rank {with_p.rank}; load and publish that one:

```sh
{with_p.command(".", folder)}
```

"""
    known, revision = hub_id(base), (base or "").partition("@")[2]
    named = json.dumps(known or "BASE_MODEL")
    named += f", revision={json.dumps(one_line(revision))}" if known and revision else ""
    return f"""{first}```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({named})
model = PeftModel.from_pretrained(base, "{folder}")  # {what}, or its repository on the hub
```"""


def licence(adapter: Path | None) -> Licence:
    """The licence in the front matter of the `README.md` of an adapter's folder, or beside it."""
    import yaml
    from huggingface_hub import metadata_load

    folder = adapter.parent if adapter and adapter.is_file() else adapter
    try:
        told = (metadata_load(folder / "README.md") or {}) if folder else {}
    except (OSError, ValueError, yaml.YAMLError):
        told = {}
    named = [told.get(key) for key in ("license", "license_name", "license_link")]
    return Licence(*(one_line(text) if isinstance(text, str) else None for text in named))


def base_note(base: str | None, *, measured: bool = False) -> str:
    """What somebody who loads or uploads the adapter has to know of its base; often empty."""
    if base in UPSTREAM:
        done = "trained and measured" if measured else "trained"
        return (
            f"It was {done} on `{base}`, a 4-bit file of that model "
            f"({UPSTREAM[base].licence}). With the model's full weights the results can differ."
        )
    if hub_id(base) is None:
        return (
            f"Its base is a folder, {base_name(base)}. Before you publish the adapter, add a line "
            "`base_model: OWNER/NAME` above and put that repository in the place of BASE_MODEL and "
            "of `base_model_name_or_path` in `adapter_config.json`."
        )
    return ""
