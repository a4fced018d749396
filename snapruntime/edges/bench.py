"""`snapruntime bench`: runs the benchmark of `bench/`, shows how far it is, and writes what came of it.

Other commands import this module too, so what only a measurement needs is imported inside.
"""

from __future__ import annotations

import importlib.util
import os
import random
import resource
import shlex
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from snapruntime.bench import cases, plan
from snapruntime.edges import exits
from snapruntime.edges.console import Console
from snapruntime.edges.interrupt import Stopper
from snapruntime.values.errors import HostError, SnapruntimeError, UsageError

if TYPE_CHECKING:
    from snapruntime.bench.document import Document

# All but the names of workloads and ways is imported when the command runs: every other command imports this module.

#: What statistics and plots need. What only a workload needs is that workload's affair: it is left out.
_NEEDED = ("matplotlib", "numpy", "scipy")


@click.command()
@click.option("--quick", is_flag=True, help="Fewer workloads and samples: less than 3 minutes on 2 cores.")
@click.option(
    "--compare",
    "compared",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="A.json B.json",
    help="Measure nothing; say what changed from A to B beyond noise. Exit code 6 if something is worse.",
)
@click.option(
    "--workload", "workloads", multiple=True, type=click.Choice(cases.NAMES), help="Only this workload. Repeatable."
)
@click.option("--way", "ways", multiple=True, type=click.Choice(tuple(plan.WAYS)), help="Only this way. Repeatable.")
@click.option("--seed", type=int, help="Of the order and the events; a random one by default, which is recorded.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("bench-results"),
    metavar="FOLDER",
    help="Where the results go. [bench-results]",
)
@click.pass_obj
def bench(
    home: Path,
    quick: bool,
    compared: tuple[Path, Path] | None,
    workloads: tuple[str, ...],
    ways: tuple[str, ...],
    seed: int | None,
    out: Path,
) -> int:
    """Measure the runtime beside cold starts, stock CRIU and os.fork(), on this machine.

    Writes to the output folder, named by the time: a JSON file of all samples with a description of the host, a
    report in Markdown, and plots. Ctrl-C ends it and keeps what was measured. A response that is not what it must be
    ends it with exit code 1.

    With --compare, exit code 0 means that nothing got worse beyond noise, 6 that something did, 2 that a file is no
    result of this command. Worse is what Mann and Whitney's test finds slower or larger by more than 5 % (bursts and
    cold caches: 10 %) beyond what `python -c pass` and the other controls changed by, at 1 % corrected for the number
    of rows; of each burst its median is one sample. Sizes, which are measured once or thrice, are worse beyond 1.3
    times. What only may have changed, since its samples are too few to tell, is listed as `maybe`; a row that only one
    file has, as `gone` or `new`. Neither changes the exit code.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise HostError(
            f"The benchmark needs {', '.join(missing)}, which {sys.executable} has not.",
            hint="Install the extra `bench`, from the folder of the source: pip install '.[bench]'",
        )
    if compared:
        if quick or workloads or ways or seed is not None:
            raise UsageError("--compare measures nothing, so the other options have no meaning with it.")
        return _compare(*compared)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {out} cannot be made: {error.strerror}.") from error
    make = plan.quick if quick else plan.full
    the_plan = make(workloads, ways, random.SystemRandom().randrange(1 << 31) if seed is None else seed)
    stopper = Stopper()
    return stopper.run(lambda: _measure(home, the_plan, out, stopper))


def _compare(before: Path, after: Path) -> int:
    from snapruntime.bench import compare, document

    documents = document.load(before), document.load(after)
    found = compare.compare(*documents)
    for line in compare.conditions(*documents) + compare.lines(found):
        click.echo(line)
    return exits.WORSE if any(change.worse for change in found.changes) else exits.OK


def _measure(home: Path, the_plan: plan.Plan, out: Path, stopper: Stopper) -> int:
    from snapruntime.bench import document, plots, report
    from snapruntime.bench.run import Run, Stopped

    _allow_descriptors()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    command = shlex.join(["snapruntime", *sys.argv[1:]])
    path = out / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.json"
    with _shown(console) as progress:
        run = Run(the_plan, command, progress)
        saving = threading.Lock()

        def save() -> Document:
            with saving:
                content = run.content()
                document.save(content, path)
            return document.Document(content)

        def stop() -> None:
            save()  # First of all: what follows has only seconds.
            run.stop()

        stopper.on_stop(stop)
        trouble: SnapruntimeError | None = None
        try:
            run.go(home)
        except Stopped:
            pass
        except SnapruntimeError as error:
            trouble = error
    if trouble is not None and not run.samples.rows():
        raise trouble  # There is nothing to keep.
    measured = save()
    pictures = plots.draw(measured, out, path.stem)
    path.with_suffix(".md").write_text(report.write(measured, pictures), "utf-8")
    console.print(_verdicts(measured))
    for name in (path.name, path.with_suffix(".md").name, *pictures):
        click.echo(os.path.join(out, name))
    if trouble is not None:
        raise trouble
    return exits.OK


def _allow_descriptors() -> None:
    """A hundred copies at once, and what is prepared for them, need more descriptors than shells give."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def _shown(console: Console) -> Iterator[plan.Progress]:
    """A bar on a terminal, a line per phase elsewhere."""
    if not console.is_terminal:
        phase = ""

        def line(text: str, done: int, total: int) -> None:
            nonlocal phase
            if (now := text.partition(":")[0]) != phase:
                phase = now
                console.print(f"{phase} …")

        yield line
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        task = bars.add_task("Starting", total=None)
        yield lambda text, done, total: bars.update(task, description=f"{text:54.54}", completed=done, total=total)


def _verdicts(measured: Document) -> Table:
    from snapruntime.bench import targets

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in ("claim", "target", "ratio", ""):
        table.add_column(name)
    for verdict in targets.judge(measured):
        ratio = "-" if verdict.ratio is None else f"{verdict.ratio:.4f}"
        doubt = f"({verdict.doubt})" if verdict.doubt else ""
        style = {"met": "green", "missed": "red"}.get(verdict.word)
        table.add_row(verdict.target.claim, verdict.target.written, ratio, " ".join((verdict.word, doubt)), style=style)
    return table
