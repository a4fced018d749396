"""Shell completion: the script that a shell reads, and the names of functions, versions and aliases."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class, shell_complete

from snapruntime.mechanisms.store import data_home
from snapruntime.values.errors import SnapruntimeError

PROGRAM = "snapruntime"
#: By this variable the script asks for completions (click's convention).
VARIABLE = "_SNAPRUNTIME_COMPLETE"

#: bash takes f:1 for three words, and would complete the last.
_ONE_WORD = 'COMP_WORDBREAKS="${COMP_WORDBREAKS//:/}"\n'


class FunctionName(click.ParamType[str]):
    """A function; a colon, and a version or an alias, may follow.

    Args:
        qualified: whether they may.
    """

    name = "function"

    def __init__(self, *, qualified: bool) -> None:
        self._qualified = qualified

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        home = _home(ctx)
        if not (home / "functions" / "functions.db").exists():
            return []  # To ask for completions must not make a data folder.
        # Here, since each command imports this module, and only some need functions.
        from snapruntime.workflows.functions import Functions

        name, colon, _ = incomplete.partition(":")
        try:
            with Functions(home) as functions:
                if not colon:
                    found = [version.name for version in functions.all()]
                elif self._qualified:
                    found = [f"{name}:{version.version}" for version in functions.versions(name)]
                    found += [f"{name}:{alias.name}" for alias in functions.aliases(name)]
                else:
                    found = []
        except SnapruntimeError:
            return []
        return [CompletionItem(value) for value in found if value.startswith(incomplete)]


def _home(context: click.Context) -> Path:
    given = context.find_root().params.get("home")
    return given.absolute() if isinstance(given, Path) else data_home()


def complete(commands: click.Command) -> int | None:
    """Answer a shell that asks for completions; None where none does."""
    instruction = os.environ.get(VARIABLE)
    return None if instruction is None else shell_complete(commands, {}, PROGRAM, VARIABLE, instruction)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands, options, functions, versions and aliases.

    For bash: eval "$(snapruntime completion bash)", in ~/.bashrc to have it always.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(context.find_root().command, {}, PROGRAM, VARIABLE).source()
    click.echo((_ONE_WORD if shell == "bash" else "") + script)
