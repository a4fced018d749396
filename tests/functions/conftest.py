"""Functions of the service's tests: code as zip files, a data folder for each test."""

from __future__ import annotations

import contextlib
import io
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from snapruntime.values.function import ApplyOn, FunctionConfiguration
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions


@contextlib.contextmanager
def emptied(home: Path) -> Iterator[Functions]:
    """The functions of a data folder that tests share; there are none of them in the end."""
    with Functions(home) as service:
        yield service
        for latest in service.all():
            service.delete(latest.name)
        list(collect(service))
        with service.database.changing() as tables:  # So that each test's versions begin with 1.
            tables.connection.execute("DELETE FROM numbers")


ARN = "arn:aws:lambda:us-east-1:123456789012:function"
HANDLER = "def lambda_handler(event, context):\n    return [context.function_version, event]\n"


def zipped(files: dict[str, str | bytes], modes: dict[str, int] | None = None) -> bytes:
    """A zip file as Unix makes it.

    Args:
        files: name -> content; that of a link is where it leads.
        modes: name -> type and permissions, where these are not a plain file's.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (2026, 11, 24, 12, 0, 0))
            entry.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return content.getvalue()


def code(number: int) -> bytes:
    """Code that differs from that of other numbers."""
    return zipped({"handler.py": f"{HANDLER}# {number}\n"})


def configured(**fields: object) -> FunctionConfiguration:
    """A configuration whose handler is handler.lambda_handler."""
    return FunctionConfiguration(
        **{  # type: ignore[arg-type]
            "module": "handler",
            "attribute": "lambda_handler",
            "python": sys.executable,
            "runtime": f"python3.{sys.version_info.minor}",
            "snap_start": ApplyOn.PUBLISHED_VERSIONS,
            "memory_mb": 512,
            **fields,
        }
    )


@pytest.fixture
def shm() -> Iterator[Path]:
    """A data folder in memory: it is about what is done in which order, and a disk takes its time for each fsync."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "home"


@pytest.fixture
def functions(shm: Path) -> Iterator[Functions]:
    """A service of its own, with the function `f`."""
    with Functions(shm) as service:
        service.create("f", configured(), zipped({"handler.py": HANDLER}))
        yield service


def publish_several(functions: Functions, count: int) -> None:
    """Versions 1, 2, … of `f`."""
    for number in range(count):
        functions.update_code("f", code(number))
        assert functions.publish("f").version == str(number + 1)
