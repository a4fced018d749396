"""polars and pyarrow: a frame made at init, grouped by the one and summed by the other for each event."""

from typing import Any

import polars as pl
import pyarrow.compute as pc
from snapshot_restore_py import register_before_snapshot

FRAME = pl.DataFrame({"shop": [row % 7 for row in range(7000)], "units": list(range(7000))})


def warm_up() -> None:
    """What the first event would load and compute is in every copy; a cold start has no use for it."""
    lambda_handler({"price": 1}, None)


def lambda_handler(event: dict[str, Any], context: object) -> dict[str, Any]:
    totals = FRAME.group_by("shop").agg((pl.col("units") * event["price"]).sum()).sort("shop").to_arrow()
    return {"shops": totals["units"].to_pylist(), "total": pc.sum(totals["units"]).as_py()}


register_before_snapshot(warm_up)
