"""`snapruntime check`: the options, and what they mean."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from snapruntime.edges import exits
from snapruntime.edges.console import Console
from snapruntime.edges.findings import as_json, as_sarif, as_text
from snapruntime.edges.interrupt import Stopper
from snapruntime.edges.output import Output
from snapruntime.edges.run import function_of, parse_environment, read_event, run
from snapruntime.mechanisms.credentials import own_credentials
from snapruntime.values.errors import UsageError
from snapruntime.values.findings import SEVERITIES, Report
from snapruntime.values.model import Function
from snapruntime.workflows.check.checker import check as check_function
from snapruntime.workflows.check.checker import ordered
from snapruntime.workflows.check.static import check_file
from snapruntime.workflows.runtime import Runtime

#: Options of `run` that say what function it is, and how its copies are restored; they mean the same here.
_OF_THE_FUNCTION = ("environment", "timeout", "memory", "python", "read_only", "writable", "user", "hooks", "network")
_OF_COPIES = ("credentials", "restore_environment", "keep_seeds")


@click.command()
@click.argument("handlers", metavar="HANDLER...", nargs=-1, required=True)
@click.option("--event", default="{}", metavar="JSON|@FILE|-", help="The event: JSON, a file, or standard input. [{}]")
@click.option(
    "--runs", type=click.IntRange(2, 100), default=3, metavar="N", help="Compare so many copies and cold starts. [3]"
)
@click.option("--static", is_flag=True, help="Only read the source: each HANDLER is a Python file, which is not run.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    help="How to print the findings. [text]",
)
@click.option("--output", metavar="FILE", help="Write the findings to a file; standard output then has the text.")
@click.option(
    "--fail-on",
    type=click.Choice([*SEVERITIES, "never"]),
    default="error",
    help="Exit with 7 for a finding of this severity or worse. [error]",
)
@click.pass_obj
def check(
    home: Path,
    /,
    handlers: tuple[str, ...],
    event: str,
    runs: int,
    static: bool,
    form: str,
    output: str | None,
    fail_on: str,
    credentials: bool,
    restore_environment: tuple[str, ...],
    keep_seeds: bool,
    **options: Any,
) -> int:
    """Find what in HANDLER is not safe to be copied.

    Runs it: its answers to the same event from copies of a snapshot and from cold starts are compared, and so are its
    objects. --static only reads the source.
    """
    if static:
        if _is_given("event"):
            raise UsageError("--static runs nothing, so --event has no meaning with it.")
        reports = [_read(file) for file in handlers]
        return _conclude(reports, form, output, fail_on)
    functions = [function_of(handler, credentials=credentials, **options) for handler in handlers]
    copies = {"environment": parse_environment(restore_environment, "--restore-env"), "keep_seeds": keep_seeds}
    body = read_event(event)
    stopper = Stopper()

    def work() -> int:
        with Runtime(home, credentials=own_credentials if credentials else None) as runtime:
            stopper.on_stop(runtime.close)
            reports = _run(runtime, functions, body, stopper, runs=runs, **copies)
        # What was cut short has found nothing, but that it was cut short.
        return exits.OK if stopper.stopping else _conclude(reports, form, output, fail_on)

    return stopper.run(work)


check.params += [option for option in run.params if option.name in (*_OF_THE_FUNCTION, *_OF_COPIES)]


def _is_given(option: str) -> bool:
    """Whether an option stands on the command line."""
    source = click.get_current_context().get_parameter_source(option)
    return source is click.core.ParameterSource.COMMANDLINE


def _read(file: str) -> Report:
    """The static pass over one file."""
    if not os.path.isfile(file):
        raise UsageError(f"There is no file {file}.", hint="With --static, HANDLER is a Python file.")
    try:
        findings = check_file(file)
    except SyntaxError as error:
        raise UsageError(f"{file}:{error.lineno} is no Python that can be read: {error.msg}.") from error
    return Report(file, os.getcwd(), ordered(findings))


def _run(runtime: Runtime, functions: list[Function], event: bytes, stopper: Stopper, **options: Any) -> list[Report]:
    output = Output(quiet=False, stopper=stopper)
    reports = []
    for function in functions:
        with output.progress(f"Checking {function.handler}") as say:
            reports.append(check_function(runtime, function, event, say=say, **options))
    return reports


def _conclude(reports: list[Report], form: str, output: str | None, fail_on: str) -> int:
    failed = fail_on != "never" and any(report.fails(fail_on) for report in reports)
    code = exits.FINDINGS if failed else exits.OK
    if any(report.handler_error for report in reports):
        code = exits.FUNCTION  # Whatever was found besides: what it does was not compared.
    if form == "text" and output is None:
        _print(reports)
        return code
    document = as_sarif(reports) if form == "sarif" else as_json(reports, failed=code != exits.OK)
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if output is None:
        click.echo(text)
    else:
        _write(reports, form, text, output)
        _print(reports)
    return code


def _print(reports: list[Report], console: Console | None = None) -> None:
    console = console or Console(soft_wrap=True, highlight=False)
    for report in reports:
        console.print(as_text(report))


def _write(reports: list[Report], form: str, text: str, output: str) -> None:
    try:
        with open(output, "w", encoding="utf-8") as file:
            if form == "text":
                _print(reports, Console(file=file, soft_wrap=True, highlight=False))
            else:
                file.write(text + "\n")
    except OSError as error:
        raise UsageError(f"The findings cannot be written to {output}: {error.strerror}.") from error
