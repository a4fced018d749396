"""SnapStart for any Linux host: snapshots of Python functions with CRIU, restored per invocation.

    from snapruntime import Runtime, resolve_function

    with Runtime() as runtime, runtime.snapshot(resolve_function("handler.py")) as snapshot:
        with snapshot.restore() as copy:
            print(copy.invoke({"name": "world"}).result)

Inside a function, `from snapruntime import register_before_snapshot, register_after_restore` gives the same hooks as
`snapshot_restore_py` does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snapruntime.values.errors import (
        DamagedSnapshotError,
        FunctionError,
        HostError,
        RestoreError,
        SnapruntimeError,
        SnapshotError,
        UsageError,
    )
    from snapruntime.values.model import Credentials, Function, Invocation
    from snapruntime.worker.registry import register_after_restore, register_before_snapshot
    from snapruntime.workflows.cold import ColdStarter
    from snapruntime.workflows.instance import Instance
    from snapruntime.workflows.parked import Parked
    from snapruntime.workflows.resolve import resolve_function
    from snapruntime.workflows.restore import Snapshot
    from snapruntime.workflows.runtime import Runtime

#: Loaded when first used: the spawner imports this package too, and has to stay small.
_WHERE = {
    "ColdStarter": "workflows.cold",
    "Credentials": "values.model",
    "DamagedSnapshotError": "values.errors",
    "Function": "values.model",
    "FunctionError": "values.errors",
    "HostError": "values.errors",
    "Instance": "workflows.instance",
    "Parked": "workflows.parked",
    "Invocation": "values.model",
    "RestoreError": "values.errors",
    "Runtime": "workflows.runtime",
    "SnapruntimeError": "values.errors",
    "Snapshot": "workflows.restore",
    "SnapshotError": "values.errors",
    "UsageError": "values.errors",
    "register_after_restore": "worker.registry",
    "register_before_snapshot": "worker.registry",
    "resolve_function": "workflows.resolve",
}

__all__ = [
    "ColdStarter",
    "Credentials",
    "DamagedSnapshotError",
    "Function",
    "FunctionError",
    "HostError",
    "Instance",
    "Invocation",
    "Parked",
    "RestoreError",
    "Runtime",
    "SnapruntimeError",
    "Snapshot",
    "SnapshotError",
    "UsageError",
    "register_after_restore",
    "register_before_snapshot",
    "resolve_function",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
