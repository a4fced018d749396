"""Give every `random.Random` that init made a new state in each copy.

Without it: `rng = random.Random()` at module level draws the same numbers in all copies. The runtime itself reseeds
only the generator behind `random.random()` and its like. One made with a seed of its own (`random.Random(42)`) is
reseeded too; do not take this hook where that must not be.
"""

from __future__ import annotations

import sys
from typing import Any

from snapruntime import register_after_restore, register_before_snapshot
from snapruntime.hooks._living import instances

_found: list[Any] = []


@register_before_snapshot
def find() -> None:
    """Remember the generators; the module's own is the runtime's business."""
    shared = getattr(sys.modules.get("random"), "_inst", None)
    _found[:] = [generator for generator in instances("random", "Random") if generator is not shared]


@register_after_restore
def reseed() -> None:
    """New states from the kernel's randomness; of a `SystemRandom` this is a no-op."""
    for generator in _found:
        generator.seed()
