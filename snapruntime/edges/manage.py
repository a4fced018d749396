"""`snapruntime ls`, `show`, `alias`, `rm`, `gc`: what functions there are, and what is to become of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from snapruntime.edges.completion import FunctionName
from snapruntime.edges.console import Console
from snapruntime.edges.serve import shapes
from snapruntime.values.errors import UsageError
from snapruntime.values.function import Alias, FunctionSettings, FunctionVersion, State
from snapruntime.values.reference import Reference, parse_reference
from snapruntime.values.service_errors import ResourceNotFoundException
from snapruntime.workflows.collect import collect
from snapruntime.workflows.functions import Functions

_COLOURS = {State.ACTIVE: "green", State.PENDING: "yellow", State.INACTIVE: "yellow", State.FAILED: "bold red"}
#: Of tables that do not go to a terminal, columns.
_PIPED_WIDTH = 400
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")


@click.command("ls")
@_JSON
@click.pass_obj
def list_functions(home: Path, as_json: bool) -> None:
    """List the functions, each with its latest version and its aliases."""
    with Functions(home) as functions:
        found = [
            (latest, functions.versions(latest.name), functions.aliases(latest.name)) for latest in functions.all()
        ]
    if as_json:
        _echo({"Functions": [_described(versions, aliases) for _, versions, aliases in found]})
        return
    table = _table("function", "version", "state", "runtime", "memory", "timeout", "modified", "aliases")
    for latest, versions, aliases in found:
        last = versions[-1]
        configuration = latest.configuration
        table.add_row(
            latest.name,
            last.version,
            _state(last),
            configuration.runtime,
            f"{configuration.memory_mb} MB",
            f"{configuration.timeout_s} s",
            _when(last),
            ", ".join(_alias(alias) for alias in aliases),
        )
    _print(table if found else "There are no functions. `snapruntime publish handler.py` makes one.")


@click.command()
@click.argument("function", type=FunctionName(qualified=True))
@_JSON
@click.pass_obj
def show(home: Path, function: str, as_json: bool) -> None:
    """Show FUNCTION: its configuration, versions and aliases; or one version of it, FUNCTION:VERSION or :ALIAS."""
    reference = parse_reference(function)
    with Functions(home) as functions:
        settings = functions.settings(reference.name)
        if reference.qualifier is not None:
            version = functions.version(reference.name, reference.qualifier)
            versions, aliases = [version], functions.aliases(reference.name, version.version)
        else:
            versions, aliases = functions.versions(reference.name), functions.aliases(reference.name)
            version = versions[0]
    if as_json:
        one = shapes.configuration(version, reference.qualifier)
        _echo(one if reference.qualifier else _described(versions, aliases))
        return
    _print(_properties(version, settings))
    table = _table("version", "state", "snapshot", "modified", "description")
    for one_version in versions:
        state = _state(one_version)
        if one_version.state_reason:
            state.append(f" ({one_version.state_reason})", style="not bold default")
        table.add_row(
            one_version.version,
            state,
            one_version.snapshot or "-",
            _when(one_version),
            one_version.configuration.description,
        )
    _print("", table)
    if aliases:
        table = _table("alias", "versions", "description")
        for alias in aliases:
            table.add_row(alias.name, _share(alias), alias.description)
        _print("", table)


@click.command()
@click.argument("function", type=FunctionName(qualified=False))
@click.argument("name")
@click.argument("version", required=False)
@click.option("--weight", metavar="VERSION=SHARE", help="Send a share (0 to 1) of the invocations to another version.")
@click.option("--description", metavar="TEXT", help="What is to be said of it.")
@click.option("--delete", is_flag=True, help="Delete the alias.")
@_JSON
@click.pass_obj
def alias(
    home: Path,
    function: str,
    name: str,
    version: str | None,
    weight: str | None,
    description: str | None,
    delete: bool,
    as_json: bool,
) -> None:
    """Have the alias NAME of FUNCTION name VERSION; without VERSION, change or show what it is.

    With --weight, some invocations go to a second version; naming a VERSION without it ends that.
    """
    if delete and (version or weight or description):
        raise UsageError("--delete takes neither a version nor other options.")
    with Functions(home) as functions:
        if delete:
            functions.alias(function, name)
            functions.delete_alias(function, name)
            return
        weights = _weights(weight) if weight else {} if version else None
        try:
            found = functions.alias(function, name)
        except ResourceNotFoundException:
            if version is None:
                raise
            found = functions.create_alias(
                function, name, version, description=description or "", weights=weights
            )  # fmt: skip
        else:
            if (version, weights, description) != (None, None, None):
                found = functions.update_alias(
                    function, name, version=version, description=description, weights=weights
                )  # fmt: skip
    _echo(shapes.alias(found)) if as_json else click.echo(f"{function}:{found.name} is {_share(found)}")


def _weights(text: str) -> dict[str, float]:
    version, equals, share = text.partition("=")
    try:
        if not equals:
            raise ValueError
        return {version: float(share)}
    except ValueError:
        raise UsageError(f"--weight {text} does not have the form VERSION=SHARE, as in --weight 2=0.1.") from None


@click.command("rm")
@click.argument("references", metavar="FUNCTION...", nargs=-1, required=True, type=FunctionName(qualified=True))
@click.pass_obj
def remove(home: Path, references: tuple[str, ...]) -> None:
    """Delete functions with their versions and aliases, or one version (FUNCTION:VERSION). `gc` frees the space."""
    parsed = [parse_reference(text) for text in references]
    with Functions(home) as functions:
        for reference in parsed:
            _check(functions, reference)
        for reference in parsed:
            functions.delete(reference.name, reference.qualifier)


def _check(functions: Functions, reference: Reference) -> None:
    """Raises where it does not exist, which to delete a version says nothing of; or is an alias."""
    functions.version(reference.name, reference.qualifier)
    if reference.qualifier in {alias.name for alias in functions.aliases(reference.name)}:
        raise UsageError(
            f"{reference.qualifier} is an alias of {reference.name}, no version.",
            hint=f"To delete the alias: snapruntime alias {reference.name} {reference.qualifier} --delete",
        )


@click.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would be removed.")
@click.option(
    "--other-versions", is_flag=True, help="Remove snapshots that another version of snapruntime made, too."
)  # fmt: skip
@_JSON
@click.pass_obj
def gc(home: Path, dry_run: bool, other_versions: bool, as_json: bool) -> None:
    """Remove snapshots and code that nothing refers to any more; never what a copy is restored from."""
    table = _table("kind", "size", "what", "why")
    removed: list[dict[str, Any]] = []
    with Functions(home) as functions:
        for one in collect(functions, dry_run=dry_run, other_versions=other_versions):
            removed.append({"kind": one.kind, "path": one.path, "bytes": one.size, "reason": one.reason})
            table.add_row(one.kind, _size(one.size), one.path.removeprefix(f"{home}/"), one.reason)
    total = sum(one["bytes"] for one in removed)
    if as_json:
        _echo({"dry_run": dry_run, "bytes": total, "removed": removed})
        return
    verb = "would be freed" if dry_run else "freed"
    _print(*([table] if removed else []), f"{_size(total)} {verb}." if removed else "There is nothing to remove.")


def _described(versions: list[FunctionVersion], aliases: list[Alias]) -> dict[str, Any]:
    latest, *published = versions
    return {
        "Configuration": shapes.configuration(latest),
        "Versions": [shapes.configuration(version, version.version) for version in published],
        "Aliases": [shapes.alias(alias) for alias in aliases],
    }


def _properties(version: FunctionVersion, settings: FunctionSettings) -> Table:
    configuration, reserved = version.configuration, settings.reserved_concurrency
    facts: Mapping[str, Any] = {
        "function": version.arn if version.published else version.name,
        "description": configuration.description,
        "handler": configuration.handler,
        "runtime": f"{configuration.runtime} ({configuration.python})",
        "memory": f"{configuration.memory_mb} MB",
        "timeout": f"{configuration.timeout_s} s",
        # Values may be secrets: --json has them.
        "environment": ", ".join(sorted(configuration.environment)),
        "snapshots": configuration.snap_start,
        "shown": ", ".join([*configuration.read_only, *(f"{path} (writable)" for path in configuration.writable)]),
        "network": configuration.network,
        "hooks": ", ".join(configuration.hooks),
        "copies": f"{settings.reuse}{'' if reserved is None else f', {reserved} invocations at once reserved'}",
        "code": f"{version.code.folder} ({_size(version.code.size)}, SHA-256 {version.code.sha256})",
    }
    table = Table(box=None, padding=(0, 1), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            table.add_row(name, Text(str(value)))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def _state(version: FunctionVersion) -> Text:
    return Text(str(version.state), style=_COLOURS[version.state])


def _when(version: FunctionVersion) -> str:
    return version.last_modified[:19].replace("T", " ")


def _alias(alias: Alias) -> str:
    return f"{alias.name} → {_share(alias)}"


def _share(alias: Alias) -> str:
    """Which versions an alias leads to, and how often: "1", or "1 (90 %) + 2 (10 %)"."""
    if not alias.weights:
        return alias.version
    rest = 1 - sum(alias.weights.values())
    shares = {alias.version: rest, **alias.weights}
    return " + ".join(f"{version} ({share * 100:g} %)" for version, share in shares.items())


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _echo(document: Mapping[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2))


def _print(*what: Any) -> None:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH  # A line for each thing, for grep and awk.
    for one in what:
        console.print(Text(one) if isinstance(one, str) else one)
