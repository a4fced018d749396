"""What a run leaves: one JSON document with every sample, from which report and plots are made, now or later."""

from __future__ import annotations

import json
import math
import os
import stat
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snapruntime import UsageError
from snapruntime.bench.stats import percentile

FORMAT = 1
#: A full run's has a hundredth of it.
_LARGEST = 256 << 20

#: What is measured -> its unit.
METRICS = {
    "first_answer": "ms",  # From the request until the client has checked the first response.
    "restore": "ms",
    "criu": "ms",  # Of `restore`, by CRIU's own clock, once it has begun.
    "criu_forking": "ms",  # Of that, making the processes and what they share.
    "hooks": "ms",
    "init": "ms",  # What a cold start has in place of restore and hooks.
    "rest": "ms",  # Of what comes before the first call: sandbox, handing over, clean-up before the copy is ours.
    "first_call": "ms",
    "second_call": "ms",
    "first_call_minor_faults": "faults",
    "first_call_major_faults": "faults",
    "minor_faults": "faults",  # Of the process that answers, from its birth to its first response.
    "major_faults": "faults",
    "rate": "1/s",  # Answers per second of a burst, until all it began with is there again.
    "pss": "bytes",  # Of a copy that waits for its first event.
    "rss": "bytes",
    "pss_answered": "bytes",  # Of one that has answered one.
    "rss_answered": "bytes",
    "pss_total": "bytes",  # Of all copies together.
    "available_taken": "bytes",  # By how much MemAvailable fell: kernel memory, page tables, /tmp and all.
    "snapshot": "ms",  # From nothing to a published snapshot: init, checkpoint, digests, fsync.
    "checkpoint": "ms",  # CRIU's part of it.
    "image_size": "bytes",
    "image_disk": "bytes",  # Blocks that it occupies.
}


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """Where samples belong.

    Attributes:
        workload: a name of `cases.NAMES`; "none" for what answers nothing.
        way: a name of `ways`.
        regime: "warm", "cold-cache", "idle" (copies that wait; concurrency is their number) or "snapshot".
        concurrency: how many at once.
    """

    workload: str
    way: str
    regime: str = "warm"
    concurrency: int = 1

    def __str__(self) -> str:
        at = f" x{self.concurrency}" if self.concurrency > 1 else ""
        return f"{self.workload} {self.way}{at}" + (f" ({self.regime})" if self.regime != "warm" else "")


class Samples:
    """The samples of a run, in the order in which they were taken."""

    def __init__(self) -> None:
        self._values: dict[tuple[Cell, str], list[float]] = {}

    def add(self, cell: Cell, values: Mapping[str, float]) -> None:
        for metric, value in values.items():
            self._values.setdefault((cell, metric), []).append(round(value, 4))

    def rows(self) -> list[dict[str, Any]]:
        """One per cell and metric. May be asked for while another thread adds."""
        return [
            {
                "workload": cell.workload,
                "way": cell.way,
                "regime": cell.regime,
                "concurrency": cell.concurrency,
                "metric": metric,
                "unit": METRICS[metric],
                "n": len(values),
                "p50": percentile(values, 0.5),
                "p95": percentile(values, 0.95),
                "p99": percentile(values, 0.99),
                "samples": values,
            }
            for (cell, metric), values in sorted((key, list(found)) for key, found in list(self._values.items()))
        ]


class Document:
    """A finished document, looked up by cell and metric."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self.rows: list[dict[str, Any]] = content["rows"]
        self._samples = {
            (Cell(row["workload"], row["way"], row["regime"], row["concurrency"]), row["metric"]): row["samples"]
            for row in self.rows
        }

    def samples(self, cell: Cell, metric: str) -> list[float]:
        """All samples; empty where there are none."""
        return list(self._samples.get((cell, metric), ()))

    def cells(self, metric: str, regime: str | None = None) -> list[Cell]:
        """The cells that have samples of `metric`."""
        return [cell for cell, found in self._samples if found == metric and regime in (None, cell.regime)]


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """`names`, once each, in the order of `order`; what is not in it comes last."""
    places = {name: place for place, name in enumerate(order)}
    return sorted(dict.fromkeys(names), key=lambda name: places.get(name, len(places)))


def save(content: Mapping[str, Any], path: Path) -> None:
    """Write a document; there is always either the old file or the new one.

    Raises:
        UsageError: the file cannot be written.
    """
    try:
        fd, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}")
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=None, separators=(", ", ": "))
            file.write("\n")
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def load(path: Path) -> Document:
    """Read a document.

    Raises:
        UsageError: it is none, or of another version.
    """
    try:
        content = json.loads(_read(path))
        if content["format"] != FORMAT:
            raise UsageError(f"{path} has format {str(content['format'])[:20]}; this version reads {FORMAT}.")
        for row in content["rows"]:
            _check(row)
        return Document(content)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, LookupError, TypeError, ArithmeticError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"[:100]
        raise UsageError(f"{path} is not the result of a benchmark ({what}).") from error


def _read(path: Path) -> str:
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):  # A pipe may never end, or never begin.
            raise ValueError("no regular file")
        if status.st_size > _LARGEST:
            raise ValueError(f"larger than {_LARGEST >> 20} MiB")
        return file.read().decode("utf-8")


def _check(row: Mapping[str, Any]) -> None:
    """Raises what `load` makes an error of, where a row is not as `Samples.rows` makes them."""
    names = [row[name] for name in ("workload", "way", "regime", "metric")]
    if not all(isinstance(name, str) and name.isprintable() for name in names):
        raise ValueError("a name that is none")
    if METRICS[row["metric"]] != row["unit"]:
        raise ValueError("a unit that is not the metric's")
    if type(row["concurrency"]) is not int or row["concurrency"] < 1:
        raise ValueError("a concurrency that is no number")
    if not row["samples"] or not all(type(value) in (int, float) and math.isfinite(value) for value in row["samples"]):
        raise ValueError("samples that are no numbers")
