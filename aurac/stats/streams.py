"""Random numbers named by what they are for, so that one result does not move another."""

from __future__ import annotations

import hashlib
import json

import numpy as np

SEED = 0  # of the commands and of results.json, where nothing else is asked for


class Streams:
    """A generator for each question, whichever others are asked and in whichever order.

    A bootstrap that shares one generator with all others gives an adapter another interval as soon
    as a second adapter stands beside it. Here the stream of a question depends on the question and
    on the state of `rng`, from which a single number is drawn.

    Args:
        rng: Where the streams' common key comes from.
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self._key = int(rng.integers(2**63))

    def of(self, *question: str | None) -> np.random.Generator:
        """The generator of a question, such as ``("score", adapter, task, truncation)``."""
        digest = hashlib.sha256(json.dumps(question).encode("utf-8")).digest()
        words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
        return np.random.default_rng([self._key, *words])
