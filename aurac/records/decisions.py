"""What a run was declared to ask."""

from __future__ import annotations

import msgspec

EACH = "*"
BEFORE, AFTER = "before the run had outcomes", "after outcomes existed"

UNDECLARED = "No primary comparison was declared, so all are exploratory and one family (Holm)."


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """The primary comparisons, and when they were declared.

    Attributes:
        pairs: Names of two each: an adapter, a group of seeds, or one of them with a truncation,
            `lora · svd` or `lora · svd · keep`. `*` in the second place is each other adapter.
        declared: When, in words.
    """

    pairs: list[tuple[str, str]]
    declared: str = "when the file was read"

    @property
    def sentence(self) -> str:
        """What was declared, and when."""
        named = (f"{a} and {'each other adapter' if b == EACH else b}" for a, b in self.pairs)
        return (
            f"Primary comparisons: {'; '.join(named)}; declared {self.declared}. All others are "
            "exploratory. p values are adjusted (Holm) within each of these two families."
        )
