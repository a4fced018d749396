"""Give every numpy generator that init made a new state in each copy.

Without it: `rng = numpy.random.default_rng()` (or a `RandomState`) at module level draws the same numbers in all
copies, and so do the children that `rng.spawn()` makes from it. The runtime itself reseeds only the generator behind
`numpy.random.rand()` and its like. Generators made with a seed of their own are reseeded too.
"""

from __future__ import annotations

import sys
from typing import Any

from snapruntime import register_after_restore, register_before_snapshot
from snapruntime.hooks._living import instances

_sequences: list[Any] = []
_generators: list[Any] = []
_legacy: list[Any] = []


@register_before_snapshot
def find() -> None:
    """Remember the generators; `numpy.random`'s own is the runtime's business."""
    shared = getattr(sys.modules.get("numpy.random.mtrand"), "_rand", None)
    _legacy[:] = [state for state in instances("numpy.random", "RandomState") if state is not shared]
    theirs = getattr(shared, "_bit_generator", None)
    _generators[:] = [one for one in instances("numpy.random", "BitGenerator") if one is not theirs]
    _sequences[:] = instances("numpy.random", "SeedSequence")


@register_after_restore
def reseed() -> None:
    """In place, as other objects hold them: what numpy's constructors do without a seed is to ask the kernel."""
    for thing in (*_sequences, *_generators):
        thing.__init__()
    for state in _legacy:
        state.seed()  # forgets the second of a pair of normal numbers as well
