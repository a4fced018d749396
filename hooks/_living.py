"""Finding the objects that a hook is to mend, wherever a handler keeps them."""

from __future__ import annotations

import gc
import sys
from typing import Any


def instances(module: str, *names: str, untracked: bool = False) -> list[Any]:
    """The living objects of these classes of `module`, subclasses included; none where it is not loaded.

    The garbage collector knows the objects that can hold others, and (`untracked`) asked each for what it holds, which
    takes ten times as long, all others.

    To be called before the snapshot: after `gc.freeze()` the garbage collector knows nothing of what it froze, which
    is therefore let go of meanwhile.
    """
    found = (getattr(sys.modules.get(module), name, None) for name in names)
    classes = tuple(kind for kind in found if isinstance(kind, type))
    if not classes:
        return []
    frozen = gc.get_freeze_count() > 0
    if frozen:
        gc.unfreeze()
    # By type(), not isinstance(), which asks an object for its __class__: a lazy proxy would come to life.
    known = gc.get_objects()
    if untracked:
        known += {id(thing): thing for holder in known for thing in gc.get_referents(holder)}.values()
    living = {id(thing): thing for thing in known if issubclass(type(thing), classes)}
    if frozen:
        gc.freeze()
    return [*living.values()]
