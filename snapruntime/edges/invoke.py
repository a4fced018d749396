"""`snapruntime invoke`, `logs`, `stats`: have a named function answer, and see what it did."""

from __future__ import annotations

import json
import threading
from collections import deque
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from snapruntime.edges import exits
from snapruntime.edges.completion import FunctionName
from snapruntime.edges.console import Console
from snapruntime.edges.interrupt import Stopper
from snapruntime.edges.run import read_event
from snapruntime.mechanisms.log_store import LogStore
from snapruntime.values.answer import Answer, Limits
from snapruntime.values.reference import parse_reference
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.statistics import Statistics, summarise

#: How often a log that is followed is looked at, seconds.
_LOOK_S = 0.2


@click.command()
@click.argument("function", type=FunctionName(qualified=True))
@click.option("--event", default="{}", metavar="JSON|@FILE|-", help="The event: JSON, a file, or standard input. [{}]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the answer and how it came about.")
@click.option("--quiet", is_flag=True, help="Print the response only.")
@click.pass_obj
def invoke(home: Path, function: str, event: str, as_json: bool, quiet: bool) -> int:
    """Have FUNCTION, FUNCTION:VERSION or FUNCTION:ALIAS answer an event, without a server.

    The response goes to standard output, the end of the log to standard error. The exit code is 1 where the function
    failed.
    """
    # They bring in the runtime, which the other commands of functions do without.
    from snapruntime.workflows.host import FunctionHost
    from snapruntime.workflows.runtime import Runtime
    from snapruntime.workflows.versions import Versions

    reference, body = parse_reference(function), read_event(event)
    stopper = Stopper()

    def answer() -> int:
        with Runtime(home) as runtime, Functions(home) as functions:
            stopper.on_stop(runtime.close)
            # One answer: nothing is made ahead, and the events that wait are the server's.
            limits = Limits(warm=0, warm_most=0)
            with FunctionHost(functions, Versions(functions, runtime), limits, deliver=False) as host:
                found = host.invoke(reference.name, reference.qualifier, body)
        _show(found, as_json=as_json, quiet=quiet)
        return exits.FUNCTION if found.function_error else exits.OK

    return stopper.run(answer)


def _show(answer: Answer, *, as_json: bool, quiet: bool) -> None:
    text = answer.payload.decode("utf-8", "replace")
    if as_json:
        said: dict[str, Any] = {
            "payload": json.loads(text),
            "function_error": answer.function_error,
            "executed_version": answer.executed_version,
            "request_id": answer.request_id,
            "way": answer.way,
            "queued_ms": answer.queued_ms,
            "start_ms": answer.start_ms,
            "hooks_ms": answer.hooks_ms,
            "duration_ms": answer.duration_ms,
            "total_ms": answer.total_ms,
            "log_tail": answer.log_tail.decode("utf-8", "replace"),
        }
        click.echo(json.dumps(said))
        return
    if not quiet:
        click.echo(answer.log_tail, err=True, nl=False)
    click.echo(text)


@click.command()
@click.argument("function", type=FunctionName(qualified=False))
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--tail", "-n", type=click.IntRange(0), metavar="LINES", help="Of what there is, only the last lines.")
@click.option("--json", "as_json", is_flag=True, help="Print the records as they are kept: one JSON object a line.")
@click.pass_obj
def logs(home: Path, function: str, follow: bool, tail: int | None, as_json: bool) -> int:
    """Show the log of FUNCTION: what it wrote, and Lambda's own lines."""
    name = parse_reference(function).name
    store = LogStore(home)
    with Functions(home) as functions:
        if not store.has(name):  # That of a function which has been deleted stays, as on AWS.
            functions.settings(name)
    stopper = Stopper()
    ended = threading.Event()
    stopper.on_stop(ended.set)

    def show() -> int:
        follower, last = store.follow(name), tail
        while True:
            lines = (line for record in follower.records() for line in _lines(record, as_json=as_json))
            for line in lines if last is None else deque(lines, last):
                click.echo(line)
            last = None
            if not follow or ended.wait(_LOOK_S):
                return exits.OK

    return stopper.run(show)


def _lines(record: dict[str, Any], *, as_json: bool) -> list[str]:
    """A record as it is printed; nothing for one that Lambda's text format does not have."""
    if as_json:
        return [json.dumps({name: value for name, value in record.items() if name != "text"})]
    if record["type"] != "function":
        return text.split("\n") if (text := str(record.get("text", ""))) else []
    written = record["record"]
    return [written if isinstance(written, str) else json.dumps(written)]


@click.command()
@click.argument("function", type=FunctionName(qualified=True))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for programs.")
@click.pass_obj
def stats(home: Path, function: str, as_json: bool) -> None:
    """Show what FUNCTION, or one version of it, has answered, how fast and how: as far back as its log goes."""
    reference = parse_reference(function)
    version = None
    with Functions(home) as functions:
        functions.settings(reference.name)
        if reference.qualifier is not None:
            version = functions.version(reference.name, reference.qualifier).version
    found = summarise(LogStore(home).read(reference.name), version)
    if as_json:
        click.echo(json.dumps(found.document()))
    else:
        _print(reference.name, found)


def _print(name: str, found: Statistics) -> None:
    console = Console(highlight=False)
    if not found.since:
        console.print(f"The log of {name} has no answers.")
        return
    if found.answers:
        console.print(_ways(found))
    if found.not_started:
        console.print(f"{found.not_started} requests for which no process started", style="red")
    for error, count in found.errors.items():
        console.print(f"{count} times {error}", style="red")
    if found.answers:
        console.print(f"Most memory: {found.max_memory_mb} MB of {found.memory_mb}.", end=" ")
    console.print(f"Since {found.since}.")


def _ways(found: Statistics) -> Table:
    table = Table(box=None, padding=(0, 1))
    for column in ("way", "answers", "errors", "p50", "p95", "p99", "max"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, one in found.ways.items():
        times = (f"{one.percentile(share):.2f} ms" for share in (0.5, 0.95, 0.99, 1.0))
        table.add_row(way, str(len(one.times)), str(one.errors), *times)
    return table
