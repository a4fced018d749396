"""The plots: three pictures, each answering one question at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from snapruntime.bench import cases, plan
from snapruntime.bench.document import Cell, Document, in_order
from snapruntime.bench.stats import ENOUGH_FOR_P95, median, percentile, says_enough

#: Colours that stay apart for the colour-blind (Okabe and Ito's, but for their yellow, which is hard to see on white),
#: and greys for what restores nothing; markers and dashes tell apart what is alike, and what is printed in grey.
_COLOURS = {
    "python-pass": "#777777",
    "cold-bare": "#999999",
    "cold": "#555555",
    "criu": "#0072b2",
    "criu-lazy": "#56b4e9",
    "plain": "#000000",
    "ours": "#d55e00",
    "ours-ready": "#e69f00",
    "parked": "#cc79a7",
    "unboxed": "#d55e00",
    "unboxed-ready": "#e69f00",
    "fork": "#009e73",
}
_MARKERS = {
    "python-pass": "p",
    "cold-bare": "v",
    "cold": "^",
    "criu": "s",
    "criu-lazy": "s",
    "plain": "P",
    "ours": "o",
    "ours-ready": "o",
    "parked": "D",
    "unboxed": "<",
    "unboxed-ready": ">",
    "fork": "h",
}
_DASHES = {"cold-bare": "--", "criu-lazy": "--", "plain": "-.", "parked": "--", "unboxed": ":", "unboxed-ready": ":"}
_NAMES = {
    "python-pass": "python -c pass",
    "cold-bare": "cold start, bare",
    "cold": "cold start, sandbox",
    "criu": "stock CRIU",
    "criu-lazy": "CRIU, lazy pages",
    "plain": "ours, plain images",
    "unboxed": "ours without sandbox",
    "unboxed-ready": "the same, ready",
    "ours": "ours, on demand",
    "ours-ready": "ours, CRIU pre-started",
    "parked": "ours, parked",
    "fork": "os.fork()",
}
_MIB = 1 << 20
_HOLLOW = f"hollow: fewer than {ENOUGH_FOR_P95} samples, the bar says little"


def draw(document: Document, folder: Path, stem: str) -> list[str]:
    """Write the pictures that the document has figures for, and return their names."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    style: Any = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "legend.frameon": False,
        "savefig.dpi": 130,
        "savefig.bbox": "tight",
    }
    drawn = []
    with plt.rc_context(style):
        for name, picture in (("latency", _latency), ("size", _size), ("memory", _memory)):
            figure = picture(plt, document)
            if figure is not None:
                figure.savefig(folder / f"{stem}-{name}.png")
                plt.close(figure)
                drawn.append(f"{stem}-{name}.png")
    return drawn


def _latency(plt: Any, document: Document) -> Any:
    """One row per way, one panel per workload: the median and the range from 5th to 95th percentile."""
    from matplotlib.ticker import FuncFormatter

    cells = [cell for cell in document.cells("first_answer", "warm") if cell.concurrency == 1]
    workloads = in_order((cell.workload for cell in cells if cell.workload != plan.NO_WORKLOAD), cases.NAMES)
    ways = [way for way in plan.WAYS if way in {cell.way for cell in cells}]
    if not workloads:
        return None
    columns = min(3, len(workloads))
    rows = -(-len(workloads) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4.6 * columns + 1.2, (0.33 * len(ways) + 0.95) * rows + 0.4),
        sharex=True, sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for axis in axes.flat[len(workloads) :]:
        axis.set_visible(False)
    for axis, workload in zip(axes.flat, workloads, strict=False):
        for place, way in enumerate(ways):
            bound = way == "python-pass"
            values = document.samples(Cell(plan.NO_WORKLOAD if bound else workload, way), "first_answer")
            if not values:
                axis.text(0.02, place, "no answer, or not measured", transform=axis.get_yaxis_transform(),
                          va="center", fontsize=8, color="#888888")  # fmt: skip
                continue
            p50, low, high = median(values), percentile(values, 0.05), percentile(values, 0.95)
            axis.plot([low, high], [place, place], color=_COLOURS[way], linewidth=6, alpha=0.4, solid_capstyle="butt")
            axis.plot(p50, place, **_point(way, len(values)), markersize=7)
            axis.annotate(
                _milliseconds(p50), (max(high, p50 * 1.1), place), xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=9, fontweight="bold" if way.startswith("ours") else "normal",
            )  # fmt: skip
        axis.set_title(workload, loc="left", fontweight="bold", fontsize=11)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _milliseconds(value)))
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_tick_params(labelbottom=True)
    everything = [value for cell in cells for value in document.samples(cell, "first_answer")]
    axes[0][0].set_xlim(min(everything) * 0.7, max(everything) * 4)
    axes[0][0].set_yticks(range(len(ways)), [_NAMES[way] for way in ways])
    axes[0][0].set_ylim(len(ways) - 0.4, -0.6)
    figure.suptitle("Request to first correct answer, one at a time", x=0.01, ha="left", fontsize=13)
    figure.supxlabel(f"logarithmic; point: median, bar: from the 5th to the 95th percentile; {_HOLLOW}", fontsize=10)
    return figure


def _size(plt: Any, document: Document) -> Any:
    """Latency against the size of memory, both logarithmic: what is independent of it is flat."""
    from matplotlib.ticker import FuncFormatter

    sizes = {case.name: case.mib for case in cases.CASES if case.mib}
    cells = [
        cell for cell in document.cells("first_answer", "warm") if cell.workload in sizes and cell.concurrency == 1
    ]
    if len({cell.workload for cell in cells}) < 2:
        return None
    figure, axis = plt.subplots(figsize=(8.2, 5.2), layout="constrained")
    ends: list[tuple[float, float, str]] = []
    for way in (way for way in plan.WAYS if way in {cell.way for cell in cells}):
        points = sorted((sizes[cell.workload], cell) for cell in cells if cell.way == way)
        values = [document.samples(cell, "first_answer") for _, cell in points]
        places, medians = [mib for mib, _ in points], [median(one) for one in values]
        below = [p50 - percentile(one, 0.05) for p50, one in zip(medians, values, strict=True)]
        above = [percentile(one, 0.95) - p50 for p50, one in zip(medians, values, strict=True)]
        thick = 2.6 if way.startswith("ours") else 1.5
        axis.errorbar(places, medians, (below, above), fmt="none", color=_COLOURS[way], alpha=0.4, linewidth=3)
        axis.plot(places, medians, _DASHES.get(way, "-"), color=_COLOURS[way], linewidth=thick)
        for place, p50, one in zip(places, medians, values, strict=True):
            axis.plot(place, p50, **_point(way, len(one)))
        ends.append((medians[-1], places[-1], way))
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    ticks = sorted(sizes[name] for name in {cell.workload for cell in cells})
    axis.set_xticks(ticks, [f"{mib} MiB" if mib < 1024 else f"{mib // 1024} GiB" for mib in ticks])
    _label_ends(axis, ends)
    axis.set_xlabel("memory of the process that the handler has written at init, incompressible")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _milliseconds(value)))
    axis.set_ylabel(f"logarithmic; bars: from the 5th to the 95th percentile;\n{_HOLLOW}")
    axis.set_title("Request to first correct answer, by memory size", loc="left")
    return figure


def _memory(plt: Any, document: Document) -> Any:
    """What one more copy costs, left as it waits and right once it has answered."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    cells = document.cells("pss_answered", "idle")
    counts = sorted({cell.concurrency for cell in cells})
    workloads = in_order((cell.workload for cell in cells), cases.NAMES)
    if len(counts) < 2:
        return None
    figure, axes = plt.subplots(
        len(workloads), 2, figsize=(11, 3.9 * len(workloads) + 0.3), sharex=True, sharey="row", squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, workload in zip(axes, workloads, strict=True):
        for axis, metric, state in ((row[0], "pss", "waiting"), (row[1], "pss_answered", "has answered one event")):
            ends: list[tuple[float, float, str]] = []
            for way in plan.WAYS:
                points = [(count, document.samples(Cell(workload, way, "idle", count), metric)) for count in counts]
                known = [(count, median(values) / _MIB) for count, values in points if values]
                if known:
                    style: Any = {"marker": _MARKERS[way], "linestyle": _DASHES.get(way, "-"), "linewidth": 2}
                    axis.plot(*zip(*known, strict=True), color=_COLOURS[way], **style)
                    ends.append((known[-1][1], known[-1][0], way))
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_xticks(counts, [f"{count}" for count in counts])
            axis.minorticks_off()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_title(f"{workload}: {state}", loc="left", fontsize=11)
            _label_ends(axis, ends)
        row[0].set_ylabel("MiB per copy (PSS), logarithmic")
    for axis in axes[-1]:
        axis.set_xlabel("copies alive at once")
    figure.suptitle("Memory of one copy, by the number of copies", x=0.01, ha="left", fontsize=13)
    return figure


def _point(way: str, count: int) -> dict[str, Any]:
    """How a median is drawn; hollow, where the bar around it is but of the few samples there are."""
    face = _COLOURS[way] if says_enough(count, 0.95) else "white"
    return {"marker": _MARKERS[way], "linestyle": "", "color": _COLOURS[way], "markerfacecolor": face}


def _milliseconds(value: float) -> str:
    """ "7.4 ms", "233 ms", "3.1 s"."""
    return f"{value:.3g} ms" if value < 999.5 else f"{value / 1000:.3g} s"


def _label_ends(axis: Any, ends: list[tuple[float, float, str]]) -> None:
    """Name each line at its right end, the names moved apart where lines end close to each other."""
    low, high = axis.get_ylim()
    far = max((place for _, place, _ in ends), default=1.0)
    gap = (high / low) ** 0.052
    last = 0.0
    for value, place, way in sorted(ends):
        at = max(value, last * gap)
        last = at
        axis.annotate(
            _NAMES[way], (place, value), xytext=(far * 1.12, at), textcoords="data", va="center", fontsize=9,
            color=_COLOURS[way], annotation_clip=False,
        )  # fmt: skip
