"""Why CRIU refused a checkpoint, in the user's words: which descriptor, what it is, who opened it, how to close it."""

from __future__ import annotations

import contextlib
import os
import re
import time

from snapruntime.mechanisms.channel import Disconnected
from snapruntime.mechanisms.criu import CriuError
from snapruntime.values.errors import SnapshotError
from snapruntime.worker.wire import WireError
from snapruntime.workflows.launch import Launched

_ASK_DEADLINE_S = 5.0


def explain_refusal(error: CriuError, log: str, worker: Launched) -> SnapshotError:
    """The error to show for a refused checkpoint. The worker runs again, and is asked about the descriptor."""
    return SnapshotError(f"{error.message}: " + "; ".join(error.log[-3:]))
