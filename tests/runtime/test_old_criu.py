"""What the protocol of CRIU before 3.19 (Debian 12's) has no words for is said in another way."""

from __future__ import annotations

import pytest
from support import Write

from snapruntime import RestoreError, Runtime
from snapruntime.mechanisms import criu


@pytest.fixture(autouse=True)
def old_protocol(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(criu, "_WHOLE_PROTOCOL", (99, 0, 0))


def test_a_snapshot_and_a_copy(runtime: Runtime, write: Write) -> None:
    """Mapped memory is read from the process once CRIU has saved it: it must have been left stopped."""
    function = write("block = bytearray(b'A' * (8 << 20))\ndef handler(event, context): return len(block)")
    with runtime.snapshot(function) as snapshot:
        assert snapshot.mapped, snapshot.plain_reason
        with snapshot.restore() as copy:
            assert copy.invoke({}).result == 8 << 20


def test_the_log_says_why(runtime: Runtime, write: Write) -> None:
    with runtime.snapshot(write("def handler(event, context): return 1")) as snapshot:
        (snapshot.stored.folder / "images" / "files.img").unlink()
        with pytest.raises(RestoreError, match=r"files\.img|Error \("):
            snapshot.restore()
