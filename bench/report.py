"""The report: Markdown that can be read without the plots, every figure with the number of samples behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from snapruntime.bench import cases, plan
from snapruntime.bench.document import Cell, Document, in_order
from snapruntime.bench.stats import (
    ENOUGH_BURSTS,
    ENOUGH_FOR_P95,
    ENOUGH_FOR_P99,
    difference_interval,
    interval,
    median,
    percentile,
    says_enough,
)
from snapruntime.bench.targets import Verdict, judge

_MIB = 1 << 20
_WORKLOADS = (plan.NO_WORKLOAD, *cases.NAMES)


_FEW = (
    f"A p95 of fewer than {ENOUGH_FOR_P95} samples, and a p99 of fewer than {ENOUGH_FOR_P99}, is little more than the "
    "largest of them, and is in parentheses."
)
_FEW_BURSTS = (
    f"{_FEW} So are both where there are fewer than {ENOUGH_BURSTS} bursts: what disturbs one answer of a burst "
    "disturbs all of them."
)
#: What the ways `criu`, `plain` and `ours` differ in.
_STOCK = (
    "First answer in ms. The runtime differs from stock CRIU by more than mapping memory; *plain*, the runtime's "
    "restore of images as CRIU wrote them, tells the two apart.\n\n"
    "- From stock CRIU to *plain*: the runtime gives CRIU `CRIU_FAULT=130`, which `criu restore` runs without: CRIU "
    "then follows what it restores by system calls instead of hardware breakpoints, the first of which after a second "
    "without any costs some 10 ms. It asks by `criu swrk` instead of the command line, prepares the copy's /tmp while "
    "CRIU is being loaded, and waits for it through its socket instead of for its end. Both run in the same sandbox; "
    "stock CRIU logs nothing (-v0), the runtime's errors only.\n"
    "- From *plain* to *ours*: memory is mapped instead of read, mounts come in one recursive bind, and CRIU does not "
    "read the build-ID of each library.\n\n"
    "So what mapping memory brings is to be read from *plain*, not from stock CRIU."
)


def number(value: float) -> str:
    """Three digits that matter: 0.123, 1.23, 12.3, 1,234."""
    if value == 0:
        return "0"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def write(document: Document, plots: Sequence[str]) -> str:
    """Args: plots: the names of the image files, to be shown where they belong."""
    content = document.content
    sections = [
        "# Benchmark of snapruntime",
        _head(content),
        "## Targets",
        f"Measured: {_measured(content['host'])}. Ratios of medians within this run, with their 95 % bootstrap "
        "interval where there are samples enough. Each claim is judged by the workload that it names and by no other: "
        "by the rows given here.",
        target_table(judge(document)),
        *(f"![{name}]({name})" for name in plots),
        "## Request to first answer, one at a time",
        "Client's clock in ms, from the request until the response has been compared with what it must be. "
        "[95 % bootstrap interval of the median].",
        _FEW,
        _interpreter(content),
        _latencies(document, "warm"),
        "## Where the time goes",
        "Medians in ms. *Of it CRIU* is by CRIU's own clock, from when it has read its request; what else there is of "
        "the restore is sandbox, processes and exec. *Rest* is what else comes before the first call: handing over, "
        "and what of the clean-up is done by then. Faults are minor + major.",
        _parts(document),
        "## Stock CRIU, and what the runtime adds to it",
        _STOCK,
        _stock(document),
        "## What the sandbox costs",
        "First answer in ms, without the sandbox and with it; the target is 3 ms more at the median at the most. "
        "[95 % bootstrap interval of the difference of the medians].",
        _sandbox(document),
        "## Many at once",
        "So many requests at the same moment, by threads of one client. The latency counts from that moment. The rate "
        "counts until all copies are gone and everything prepared ahead is there again. A burst begins with as much "
        "prepared ahead as there are requests.",
        _FEW_BURSTS,
        _bursts(document),
        "## Memory of copies that wait",
        "PSS (proc(5), smaps_rollup) in MiB: a page that n processes share counts 1/n for each. *Available* is by how "
        "much MemAvailable of the whole machine fell: page tables, /tmp and kernel memory too, and whatever else "
        "happened on the machine.",
        _memory(document),
        "## Page cache cold",
        *[note for note in content["notes"] if note.startswith("cold-cache")],
        _latencies(document, "cold-cache"),
        "## Making a snapshot",
        "From nothing to published: start, init, CRIU's checkpoint, rewriting, digests, fsync. *plain* is without the "
        "rewriting.",
        _snapshots(document),
        "## What was left out, and what failed",
        "\n".join(f"- {note}" for note in [*content["notes"], *content["failures"]]) or "Nothing.",
        "## The ways",
        "\n".join(f"- **{name}**: {what}" for name, what in content["ways"].items()),
        _method(),
        "## The machine",
        _machine(content),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(content: Mapping[str, Any]) -> str:
    host, load = content["host"], content["load"]
    busy = load["start"][0] > 0.5 * host.get("cpus", 1)
    state = " **The machine was busy with other things.**" if busy else ""
    state += "" if content["complete"] else f" **The run was ended while {content['phase']}: figures are missing.**"
    return (
        f"`{content['command']}`, {content['began']} to {content['ended']}, seed {content['seed']}.{state}\n\n"
        f"{host.get('cpu', 'unknown')}, {host.get('cpus', '?')} CPUs, {host.get('memory', '?')}, "
        f"{host.get('kernel', '?')}; {host.get('criu', '?')}; {host.get('python', '?')}; "
        f"{_measured(host)}. Load average {load['start'][0]} at the start, {load['end'][0]} at the end."
    )


def _measured(host: Mapping[str, Any]) -> str:
    """The code that was measured: its commit, and whether it was that commit's."""
    commit, _, changed = str(host.get("commit", "unknown")).partition(" ")
    if commit == "unknown":
        return "an unknown commit, outside of a repository"
    state = "with changes that are not in it" if changed else "without changes"
    return f"commit {commit}, {state}"


def _interpreter(content: Mapping[str, Any]) -> str:
    if (python := content["host"].get("interpreter")) is None:
        return ""
    return (
        f"The bound is `{python} -c pass`, and all ways start that interpreter: the runtime's cold start does what "
        "`snapruntime run --cold` does with it. Where this project is installed for editing, it is an environment made "
        "for the run: the packages and .pth files are those of the one that measures, but for this project's own .pth, "
        "which would cost every start some milliseconds."
    )


def target_table(verdicts: Sequence[Verdict]) -> str:
    """The issue's table, with what this run says of each claim."""
    rows = []
    for verdict in verdicts:
        ratio, sure = verdict.ratio, verdict.sure
        doubt = f" ({verdict.doubt})" if verdict.doubt else ""
        written = "-"
        if ratio is not None:
            written = number(ratio) if ratio >= 1 else f"1/{1 / ratio:.1f} ({ratio:.4f})"
        unit = "MiB" if verdict.target.above[1].startswith("pss") else "ms"
        scale = _MIB if unit == "MiB" else 1
        medians = [
            f"{number(value / scale)} {unit}" if value is not None else "-" for value in (verdict.above, verdict.below)
        ]
        rows.append(
            [
                verdict.target.claim,
                verdict.target.judged_by,
                verdict.target.written,
                written,
                f"{sure[0]:.4f} to {sure[1]:.4f}" if sure else "-",
                (f"**{verdict.word}**" if verdict.word == "missed" else verdict.word) + doubt,
                *medians,
                f"{verdict.counts[0]}, {verdict.counts[1]}",
            ]
        )
    return table(
        ["claim", "judged by (workload, way: metric)", "target", "ratio", "95 %", "", "p50 above", "p50 below", "n"],
        rows,
    )


def _ordered(cells: Sequence[Cell]) -> list[Cell]:
    workloads, ways = in_order((cell.workload for cell in cells), _WORKLOADS), list(plan.WAYS)
    return sorted(cells, key=lambda cell: (workloads.index(cell.workload), ways.index(cell.way), cell.concurrency))


def _high(values: Sequence[float], share: float, bursts: int | None = None) -> str:
    """A high percentile, in parentheses where the samples are too few for one."""
    written = number(percentile(values, share))
    return written if says_enough(len(values), share, bursts) else f"({written})"


def _latencies(document: Document, regime: str) -> str:
    rows = []
    for cell in _ordered([cell for cell in document.cells("first_answer", regime) if cell.concurrency == 1]):
        values = document.samples(cell, "first_answer")
        sure = interval(values, 0.5)
        p50 = number(median(values)) + (f" [{number(sure[0])}, {number(sure[1])}]" if sure else "")
        rows.append([cell.workload, cell.way, p50, _high(values, 0.95), _high(values, 0.99), f"{len(values)}"])
    return table(["workload", "way", "p50", "p95", "p99", "n"], rows) if rows else "Not measured."


def _parts(document: Document) -> str:
    rows = []
    for cell in _ordered([cell for cell in document.cells("second_call", "warm") if cell.concurrency == 1]):

        def of(metric: str, cell: Cell = cell) -> str:
            values = document.samples(cell, metric)
            return number(median(values)) if values else "-"

        faults = [f"{of(f'{kind}minor_faults')} + {of(f'{kind}major_faults')}" for kind in ("first_call_", "")]
        names = ("restore", "criu", "hooks", "init", "rest", "first_call", "second_call")
        rows.append([cell.workload, cell.way, *map(of, names), *(one.replace("- + -", "-") for one in faults)])
    head = ["workload", "way", "restore", "of it CRIU", "hooks", "init", "rest", "first call", "second call"]
    return table([*head, "faults in first call", "faults from birth"], rows) if rows else "Not measured."


def _stock(document: Document) -> str:
    rows = []
    for cell in _ordered([cell for cell in document.cells("first_answer", "warm") if cell.concurrency == 1]):
        ways = [document.samples(Cell(cell.workload, way), "first_answer") for way in ("criu", "plain", "ours")]
        if cell.way == "plain" and all(ways):
            steps = []
            for before, after in pairwise(ways):
                sure = difference_interval(after, before)
                step = f"{median(after) - median(before):+.2f}"
                steps.append(step + (f" [{sure[0]:+.2f}, {sure[1]:+.2f}]" if sure else ""))
            counts = ", ".join(f"{len(values)}" for values in ways)
            rows.append([cell.workload, *(number(median(values)) for values in ways), *steps, counts])
    head = ["workload", "criu", "plain", "ours", "criu to plain", "plain to ours", "n"]
    return table(head, rows) if rows else "Not measured."


def _sandbox(document: Document) -> str:
    rows = []
    for cell in _ordered([cell for cell in document.cells("first_answer", "warm") if cell.concurrency == 1]):
        if cell.way not in ("unboxed", "unboxed-ready"):
            continue
        inside = Cell(cell.workload, cell.way.replace("unboxed", "ours"))
        without, values = document.samples(cell, "first_answer"), document.samples(inside, "first_answer")
        if not values:
            continue
        sure = difference_interval(values, without)
        more = f"{median(values) - median(without):+.2f}" + (f" [{sure[0]:+.2f}, {sure[1]:+.2f}]" if sure else "")
        figures = [f"{number(median(one))} / {_high(one, 0.95)} / {_high(one, 0.99)}" for one in (without, values)]
        rows.append([cell.workload, inside.way, *figures, more, f"{len(without)}, {len(values)}"])
    head = ["workload", "way", "without: p50 / p95 / p99", "with: p50 / p95 / p99", "more at p50", "n"]
    return table(head, rows) if rows else "Not measured."


def _bursts(document: Document) -> str:
    rows = []
    for cell in _ordered(document.cells("rate", "warm")):
        values, rates = document.samples(cell, "first_answer"), document.samples(cell, "rate")
        percentiles = [number(median(values)), *(_high(values, share, len(rates)) for share in (0.95, 0.99))]
        row = [cell.workload, cell.way, f"{cell.concurrency}", *percentiles, f"{len(values)}"]
        rows.append([*row, number(median(rates)), f"{len(rates)}"])
    head = ["workload", "way", "at once", "p50", "p95", "p99", "n", "answers/s (p50)", "bursts"]
    return table(head, rows) if rows else "Not measured."


def _memory(document: Document) -> str:
    rows = []
    for cell in _ordered(document.cells("pss_answered", "idle")):

        def of(metric: str, cell: Cell = cell) -> str:
            values = document.samples(cell, metric)
            return number(median(values) / _MIB) if values else "-"

        names = ("pss", "pss_answered", "rss", "rss_answered", "pss_total", "available_taken")
        rows.append([cell.workload, cell.way, f"{cell.concurrency}", *map(of, names)])
    head = ["workload", "way", "copies", "PSS, waiting", "PSS, answered", "RSS, waiting", "RSS, answered"]
    return table([*head, "PSS of all", "available"], rows) if rows else "Not measured."


def _snapshots(document: Document) -> str:
    rows = []
    for cell in _ordered(document.cells("snapshot", "snapshot")):
        times = [number(median(document.samples(cell, name))) for name in ("snapshot", "checkpoint")]
        sizes = [number(median(document.samples(cell, name)) / _MIB) for name in ("image_size", "image_disk")]
        images, n = "mapped" if cell.way == "ours" else "plain", len(document.samples(cell, "snapshot"))
        rows.append([cell.workload, images, *times, *sizes, f"{n}"])
    head = ["workload", "images", "all, ms", "CRIU's checkpoint, ms", "size, MiB", "on disk, MiB", "n"]
    return table(head, rows) if rows else "Not measured."


def _method() -> str:
    return (
        "Samples of all ways and workloads were taken in one random order, those of each spread evenly over the run; "
        "warm-up samples are not among them. Every event is another, and each response was compared with what the "
        "client computes without the handler's libraries. How many samples a cell gets was decided by what its warm-up "
        "took, before any was taken. Nothing was left out of the samples; requests that got no answer are listed "
        "above. Copies are ended, and what is prepared ahead is made again, between samples."
    )


def _machine(content: Mapping[str, Any]) -> str:
    rows = [[name.replace("_", " "), str(value)] for name, value in content["host"].items() if name != "mitigations"]
    rows += [["versions", ", ".join(f"{name} {version}" for name, version in content["versions"].items())]]
    weak = content["host"].get("mitigations", {})
    rows += [["mitigations", "; ".join(f"{name}: {state}" for name, state in weak.items() if state != "Not affected")]]
    lines = [["", ""], ["---", "---"], *[[name, value.replace("\n", " ").replace("|", "/")] for name, value in rows]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
