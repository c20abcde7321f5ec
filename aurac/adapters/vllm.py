"""What vLLM serves of an adapter's plain PEFT export: its rank rule and what it does not load.

Facts of vLLM's ``LoRAConfig`` (``max_lora_rank``) and ``PEFTHelper`` (one r, one α, no bias, no
``modules_to_save``), 2025-2026. vLLM is not needed to know them and is not asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from aurac.adapters.nesting import peft_alpha

if TYPE_CHECKING:
    from aurac.adapters.adapter import Adapter

VLLM_RANKS: Final = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def max_lora_rank(adapter: Adapter) -> int | None:
    """The smallest ``--max-lora-rank`` that takes it; ``None`` when it is above the largest."""
    return next((r for r in VLLM_RANKS if r >= adapter.export_rank), None)


def vllm_refusal(adapter: Adapter) -> str | None:
    """Why vLLM would not serve an export, or would serve it wrongly; ``None`` when it serves it."""
    if adapter.extras:
        return "it does not load tensors beside the low-rank factors"
    if adapter.peft_config.get("layer_replication"):
        return "it does not repeat layers"
    kinds = {f.kind for f in adapter.modules.values()} - {"linear", "merged"}
    if kinds:
        return f"it does not serve factors of {', '.join(sorted(kinds))} as PEFT lays them out"
    ranks = {f.rank * f.rank_multiple for f in adapter.modules.values()}
    alphas = {
        peft_alpha(f.rule, f.alpha, f.rank, f.rank_multiple) for f in adapter.modules.values()
    }
    if len(ranks) > 1 or len(alphas) > 1:
        return "it knows one rank and one alpha for all modules, and would scale some wrongly"
    if max_lora_rank(adapter) is None:
        return f"it serves ranks up to {VLLM_RANKS[-1]}"
    return None
