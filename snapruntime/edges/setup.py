"""`snapruntime setup`: tells people what the provisioning of CRIU is doing."""

from __future__ import annotations

from pathlib import Path

import click
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn

from snapruntime.edges.console import Console
from snapruntime.mechanisms.provision.install import setup_criu
from snapruntime.values.host import SetupProgress


@click.command()
@click.option(
    "--mirror", metavar="URL", help="Debian mirror to install from, in place of the one apt is configured for."
)
@click.option(
    "--criu",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Use this CRIU (the ELF binary itself) in place of the system's or an installed one.",
)
@click.pass_obj
def setup(home: Path, mirror: str | None, criu: Path | None) -> None:
    """Provide a CRIU that works on this host, without touching the system.

    Takes the system's own where that will do. Where it will not, a newer one is installed into the data folder, from
    the signed packages of the Debian mirror that this machine uses already; --mirror only says from where that is.
    Running it again is instant.
    """
    console = Console()
    if console.is_terminal:
        with Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TextColumn("[dim]{task.fields[detail]}[/]"),
            console=console,
        ) as bars:
            found = setup_criu(home, mirror=mirror, criu=criu, progress=_Bars(bars))
    else:
        found = setup_criu(home, mirror=mirror, criu=criu, progress=_Lines())
    console.print(f"Ready: {found.describe()}", style="green", highlight=False, soft_wrap=True)


class _Bars:
    """One line on the terminal for each step; a step is done when the next begins."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._step = ""
        self._task: TaskID | None = None

    def __call__(self, report: SetupProgress) -> None:
        if report.step != self._step:
            if self._task is not None:
                self._bars.update(self._task, total=1.0, completed=1.0)
            self._step = report.step
            self._task = self._bars.add_task(report.step, total=None, detail="")
        assert self._task is not None
        fraction = report.fraction
        self._bars.update(
            self._task, detail=report.detail, total=None if fraction is None else 1.0, completed=fraction or 0.0
        )


class _Lines:
    """For logs: one line when a step begins, one for each thing it came to; no moving parts."""

    def __init__(self) -> None:
        self._step = ""
        self._detail = ""

    def __call__(self, report: SetupProgress) -> None:
        news = report.step != self._step or (report.detail != self._detail and report.fraction in (None, 1.0))
        if news:
            click.echo(f"{report.step}: {report.detail}" if report.detail else f"{report.step} …")
        self._step, self._detail = report.step, report.detail
