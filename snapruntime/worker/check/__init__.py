"""What `snapruntime check` asks a process: imported by the copy that is looked at, so that no snapshot carries it."""

from __future__ import annotations

import json

from . import scan, watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..inputs import Inputs


def answer(do: str, inputs: Inputs, task_root: str) -> bytes:
    """The answer to one `check` message, JSON.

    Args:
        do: "scan": what the function's objects hold. "watch": begin to record what it sends. "seen": what it sent.
    """
    found: dict[str, Any] | None = None
    if do == "scan":
        found = scan.scan(task_root, inputs)
    elif do == "watch":
        watch.begin(task_root)
    else:
        found = watch.seen()
    return json.dumps(found).encode()
