"""The workloads: handlers, events, and what must come back, computed here without the handlers' libraries."""

from __future__ import annotations

import importlib.util
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from snapruntime import Function, resolve_function

WORKLOADS = Path(__file__).resolve().parent / "workloads"
MIB = 1 << 20

#: An event, and the response that it must get.
Question = tuple[Any, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A workload.

    Attributes:
        name: in the results.
        file: the handler's, in `workloads/` or absolute.
        ask: makes an event that was not asked before, and its response.
        needs: the modules that it imports, beside the standard library's.
        mib: how much synthetic memory it has; 0 for a real workload.
        environment: the function's environment variables.
    """

    name: str
    file: str
    ask: Callable[[random.Random], Question]
    needs: tuple[str, ...] = ()
    mib: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        return WORKLOADS / self.file

    def function(self, python: str = sys.executable) -> Function:
        """The function as the runtime gets it, on this interpreter."""
        # Starting a gigabyte or many copies at once takes long; what takes how long is for the results to say.
        return resolve_function(
            self.path,
            python=python,
            environment=self.environment,
            timeout_s=120.0,
            memory_mb=512 + self.mib,  # It is a limit.
        )

    def missing(self) -> list[str]:
        """Those of the modules it needs that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def _hello(draw: random.Random) -> Question:
    name = f"{draw.getrandbits(32):08x}"
    return {"name": name}, {"message": f"Hello, {name}!"}


def _array_sums(draw: random.Random) -> Question:
    factor = draw.randrange(1, 1000)
    return {"factor": factor}, factor * (200_000 * 199_999 // 2)


def _sales_report(draw: random.Random) -> Question:
    price = draw.randrange(1, 1000)
    return {"price": price}, {
        city: price * sum(range(first, 3000, 3)) for first, city in enumerate(("Oslo", "Lima", "Pune"))
    }


def _forest(draw: random.Random) -> Question:
    points = [[draw.uniform(0.5, 1.0) * draw.choice((-1, 1)), *(draw.uniform(-1, 1) for _ in range(3))] for _ in "123"]
    return {"points": points}, [point[0] > 0 for point in points]


def _columns(draw: random.Random) -> Question:
    price = draw.randrange(1, 1000)
    shops = [price * sum(range(shop, 7000, 7)) for shop in range(7)]
    return {"price": price}, {"shops": shops, "total": sum(shops)}


@lru_cache(maxsize=64)
def _mebibyte(start: int) -> bytes:
    return random.Random(start).randbytes(MIB)


def _memory(mib: int) -> Callable[[random.Random], Question]:
    def ask(draw: random.Random) -> Question:
        offsets = [draw.randrange(mib * MIB) for _ in range(8)]
        return {"offsets": offsets}, [_mebibyte(offset // MIB * MIB)[offset % MIB] for offset in offsets]

    return ask


#: What is measured, in the order of the report.
CASES = (
    Case("hello", "hello.py", _hello),
    Case("numpy", "array_sums.py", _array_sums, ("numpy",)),
    Case("pandas", "sales_report.py", _sales_report, ("pandas",)),
    Case("scikit-learn", "forest.py", _forest, ("sklearn",)),
    Case("polars+pyarrow", "columns.py", _columns, ("polars", "pyarrow")),
    *(
        Case(f"memory-{mib}", "memory.py", _memory(mib), mib=mib, environment={"BENCH_MIB": str(mib)})
        for mib in (64, 256, 1024, 2048)
    ),
)
NAMES = tuple(case.name for case in CASES)
