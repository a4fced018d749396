"""A second supervisor on the same store, to be killed: makes a snapshot, restores a copy, answers one request.

python -m snapruntime.bench.soak.side HOME HANDLER NUMBER REQUEST
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from snapruntime import Runtime, SnapruntimeError, resolve_function


def main(home: str, handler: str, number: str, request: str) -> None:
    try:
        with (
            Runtime(Path(home)) as runtime,
            runtime.snapshot(resolve_function(handler), rebuild=True) as snapshot,
            snapshot.restore(request_id=request) as copy,
        ):
            answer = copy.invoke({"number": int(number)}, request_id=request)
            line = {
                "error": answer.error and answer.error["errorType"],
                "payload": (answer.payload or b"null").decode(),
            }
    except SnapruntimeError as error:
        line = {"error": error.code, "payload": "null"}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
