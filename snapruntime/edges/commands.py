"""The commands of `snapruntime`."""

from __future__ import annotations

from pathlib import Path

import click

from snapruntime.edges.bench import bench
from snapruntime.edges.check import check
from snapruntime.edges.completion import completion
from snapruntime.edges.doctor import doctor
from snapruntime.edges.invoke import invoke, logs, stats
from snapruntime.edges.manage import alias, gc, list_functions, remove, show
from snapruntime.edges.publish import publish
from snapruntime.edges.run import run
from snapruntime.edges.serve.command import serve
from snapruntime.edges.setup import setup
from snapruntime.mechanisms.store import data_home


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--home",
    envvar="SNAPRUNTIME_HOME",
    type=click.Path(file_okay=False, path_type=Path),
    help="The data folder: snapshots, and the CRIU that setup installs. Also by SNAPRUNTIME_HOME.",
)
@click.version_option(package_name="snapruntime", message="%(prog)s %(version)s")
@click.pass_context
def commands(context: click.Context, home: Path | None) -> None:
    """SnapStart for any Linux host: Python functions answered by copies of a CRIU snapshot."""
    context.obj = home.absolute() if home else data_home()


commands.add_command(run)
commands.add_command(publish)
commands.add_command(list_functions)
commands.add_command(show)
commands.add_command(alias)
commands.add_command(remove)
commands.add_command(gc)
commands.add_command(invoke)
commands.add_command(logs)
commands.add_command(stats)
commands.add_command(serve)
commands.add_command(check)
commands.add_command(setup)
commands.add_command(doctor)
commands.add_command(completion)
commands.add_command(bench)
