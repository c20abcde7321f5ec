"""The card of a trained adapter: what it is, how it was made, how to make it again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aurac.adapters.methods import method_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aurac.adapters import Adapter


def card(adapter: Adapter, losses: Sequence[tuple[int, float]], versions: dict[str, str]) -> str:
    """The adapter's `README.md`, with the front matter that the hub reads."""
    recipe: dict[str, Any] = dict(adapter.recipe or {})
    digest, dtype = recipe.pop("sha256", None), recipe.pop("dtype_used", None)
    method = method_named(str(recipe["method"])).title
    data = recipe.get("task") or recipe.get("data")
    ranks = ", ".join(map(str, adapter.nesting.ranks)) if adapter.nesting else "not recorded"
    last = f"{losses[-1][1]:.4f} at step {losses[-1][0]}" if losses else "not logged"
    return f"""---
base_model: {adapter.base}
library_name: peft
tags: [lora, {recipe.get("method")}]
---

# {adapter.name}

A {method} adapter of rank {adapter.rank} for `{adapter.base}` (weights SHA-256
`{adapter.base_sha256}`), trained on `{data}`. Nested ranks: {ranks}. Scaling rule: `{adapter.rule}`
with α = {adapter.alpha:g}. Trained in {dtype}; mean training loss {last}.

It is a plain PEFT adapter; `aurac.json` beside it records what PEFT's config cannot say.
`aurac inspect` describes it, `aurac truncate --rank r` cuts it to a smaller rank.

To make it again, save this as `recipe.yaml` (hash without name and seed: `{digest}`) and run
`aurac train recipe.yaml --out FOLDER`:

```yaml
{_yaml(recipe)}```

Versions: {", ".join(f"{name} {version}" for name, version in versions.items())}.
"""


def _yaml(recipe: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True))
