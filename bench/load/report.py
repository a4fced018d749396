"""The load test's report: Markdown for people, JSON for programs."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from snapruntime.bench.load.run import (
    BURST,
    DEMAND,
    DEMAND_1,
    HTTP,
    HTTP_20,
    KEPT_20,
    MODERATE,
    P50_S,
    P99_S,
    PARKED,
    Found,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target, and what was found."""

    claim: str
    found: str
    held: bool


def verdicts(found: Found) -> list[Verdict]:
    """The targets of the endpoint."""
    p50, p99 = (statistics.median(shares) for shares in zip(*found.within, strict=True))
    bare = statistics.median(one.rate for one in found.bare)
    throughput = found.rate(DEMAND) / bare
    http = found.p50(HTTP) / found.p50(DEMAND_1)
    longest = max((max(times, default=0.0) for times in found.burst), default=0.0)
    return [
        Verdict(
            f"parked copy, from request read to answer written: p50 at most {P50_S * 1000:g} ms",
            f"{p50:.1%} of requests within it",
            p50 >= 0.5,
        ),
        Verdict(
            f"the same: p99 at most {P99_S * 1000:g} ms",
            f"{p99:.2%} of requests within it",
            p99 >= 0.99,
        ),
        Verdict(
            "sustained on-demand throughput at least 0.8 times the bare restore path's",
            f"{found.rate(DEMAND):.1f}/s of {bare:.1f}/s: {throughput:.2f}",
            throughput >= 0.8,
        ),
        Verdict(
            "all of HTTP at most 10 % of an on-demand answer",
            f"{found.p50(HTTP):.2f} of {found.p50(DEMAND_1):.2f} ms: {http:.1%}",
            http <= 0.1,
        ),
        Verdict(
            f"a burst from 0 to {BURST} requests is answered without errors",
            f"longest {longest:.0f} ms, {found.burst_wrong} not answered",
            not found.burst_wrong,
        ),
        Verdict("no answer of any run is wrong or missing", str(found.wrong), not found.wrong),
    ]


def write(found: Found, command: str, path: Path) -> None:
    """Write PATH.md and PATH.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    uname = os.uname()
    host = {"kernel": uname.release, "machine": uname.machine, "processors": os.cpu_count()}
    path.with_suffix(".md").write_text("\n".join(_lines(found, command, host)) + "\n")
    document = {"command": command, "host": host, **asdict(found), "targets": [asdict(one) for one in verdicts(found)]}
    path.with_suffix(".json").write_text(json.dumps(document, indent=1) + "\n")


def _lines(found: Found, command: str, host: dict[str, Any]) -> Iterator[str]:
    yield "# Load test"
    yield ""
    yield f"`{command}`, Linux {host['kernel']}, {host['machine']}, {host['processors']} processors."
    yield "The handler is hello; wrk and the servers share the processors. Medians of the rounds, seen by the client."
    yield ""
    yield "| target | | found |"
    yield "|---|---|---|"
    for one in verdicts(found):
        yield f"| {one.claim} | {'held' if one.held else '**missed**'} | {one.found} |"
    yield ""
    yield "| load | answers/s | p50, ms | p90 | p99 | longest | wrong or missing |"
    yield "|---|---|---|---|---|---|---|"
    for name, loads in found.loads.items():
        middle = [statistics.median(getattr(one, part) for one in loads) for part in ("p50", "p90", "p99", "most")]
        numbers = " | ".join(f"{value:.2f}" for value in middle)
        yield f"| {name} | {found.rate(name):.1f} | {numbers} | {sum(one.wrong + one.broken for one in loads)} |"
    yield ""
    rates = ", ".join(f"{one.rate:.1f}/s at a median of {one.p50:.1f} ms" for one in found.bare)
    yield f"Restores without HTTP, {MODERATE} threads, round by round: {rates}."
    yield ""
    yield "Requests of 20 a second come at random moments, on two connections."
    longer, slower = found.p50(PARKED) / found.p50(KEPT_20), found.p50(HTTP_20) / found.p50(HTTP)
    yield f"A parked copy, fresh for each request, takes {longer:.1f} times what AWS's runtime interface client takes,"
    yield "which is kept warm and answers all of them, in the same rhythm: a bound. So is a dry run, which is served as"
    yield f"a call is but runs no function: in that rhythm it takes {found.p50(HTTP_20):.2f} ms, {slower:.1f} times"
    yield "what it takes where one request follows the other. So much does the rhythm alone cost on this machine."
