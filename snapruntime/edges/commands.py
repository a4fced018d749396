"""The commands of `snapruntime`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click
from click.exceptions import NoSuchCommand

from snapruntime.mechanisms.store import data_home

#: Where each is, within this package. It is imported when it is asked for: all of them take longer than many a command.
_PLACES = {
    "run": "run:run",
    "publish": "publish:publish",
    "ls": "manage:list_functions",
    "show": "manage:show",
    "alias": "manage:alias",
    "rm": "manage:remove",
    "gc": "manage:gc",
    "invoke": "invoke:invoke",
    "logs": "invoke:logs",
    "stats": "invoke:stats",
    "serve": "serve.command:serve",
    "check": "check:check",
    "setup": "setup:setup",
    "doctor": "doctor:doctor",
    "completion": "completion:completion",
    "bench": "bench:bench",
}


class Commands(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _PLACES:
            return None
        module, _, name = _PLACES[cmd_name].partition(":")
        command = getattr(import_module(f"snapruntime.edges.{module}"), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except NoSuchCommand as error:  # click would look for one like it among those that are imported.
            raise NoSuchCommand(error.command_name, possibilities=_PLACES, ctx=ctx) from None


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
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
