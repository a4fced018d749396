"""`snapruntime doctor`: tells people and programs what this host offers, and what to do about the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from snapruntime.edges.console import Console
from snapruntime.mechanisms.host.probes import gather, judge
from snapruntime.values.host import Criu, Probe

#: The exit code where `run` cannot work: that of every HostError.
EXIT_HOST = 3

_COLOURS = {"ok": "green", "degraded": "yellow", "missing": "bold red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.pass_context
def doctor(context: click.Context, as_json: bool) -> None:
    """List what snapshots need of this host: ok, degraded or missing, and how to mend it.

    The exit code is 0 where `run` can work, and 3 where something that it needs is missing.
    """
    host = gather(context.obj)
    probes = judge(host)
    works = not any(probe.blocks for probe in probes)
    if as_json:
        click.echo(json.dumps(document(host.criu, probes), indent=2))
    else:
        _print(probes, works)
    context.exit(0 if works else EXIT_HOST)


def document(criu: Criu | None, probes: Sequence[Probe]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        "ok": not any(probe.blocks for probe in probes),
        "criu": None
        if criu is None
        else {
            "version": ".".join(map(str, criu.version)),
            "source": criu.source,
            "binary": str(criu.binary),
            "argv": list(criu.argv),
            "pycriu": str(criu.pycriu) if criu.pycriu else None,
        },
        "probes": [asdict(probe) for probe in probes],
    }


def _print(probes: Sequence[Probe], works: bool) -> None:
    console = Console()
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for probe in probes:
        colour = _COLOURS[probe.status]
        said = Text(probe.detail)
        if probe.fix:
            said.append(f"\n→ {probe.fix}", style="cyan")
        table.add_row(Text(probe.status, style=colour), Text(probe.name.replace("_", " ")), said)
    console.print(table)
    blocking = [probe.name.replace("_", " ") for probe in probes if probe.blocks]
    if works:
        console.print("\nThis host can run snapshots.", style="green")
    else:
        console.print(
            f"\nThis host cannot run snapshots yet: {', '.join(blocking)}.", style="bold red", highlight=False
        )
