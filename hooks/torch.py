"""Give every `torch.Generator` that init made a new state in each copy.

Without it: a generator at module level, or one that a sampler or a DataLoader holds, draws the same in all copies.
The runtime itself reseeds only torch's global generator. Generators made with a seed of their own are reseeded too.
"""

from __future__ import annotations

import sys
from typing import Any

from snapruntime import register_after_restore, register_before_snapshot
from snapruntime.hooks._living import instances

_generators: list[Any] = []


@register_before_snapshot
def find() -> None:
    """Remember the generators; the global one is the runtime's business."""
    shared = getattr(sys.modules.get("torch"), "default_generator", None)
    _generators[:] = [one for one in instances("torch", "Generator", untracked=True) if one is not shared]


@register_after_restore
def reseed() -> None:
    """In place, as other objects hold them; from the kernel's randomness."""
    for generator in _generators:
        generator.seed()
