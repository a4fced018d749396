"""`snapruntime publish`: the options, and what they mean."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from snapruntime.edges import exits
from snapruntime.edges.completion import FunctionName
from snapruntime.edges.interrupt import Stopper
from snapruntime.edges.output import Output, RequestLog
from snapruntime.edges.run import parse_environment, run
from snapruntime.edges.serve import shapes
from snapruntime.values.answer import Limits
from snapruntime.values.errors import SnapruntimeError, UsageError
from snapruntime.values.function import ApplyOn, FunctionConfiguration, FunctionVersion, State, is_number
from snapruntime.values.model import Function
from snapruntime.values.service_errors import (
    PreconditionFailedException,
    ResourceConflictException,
    ResourceNotFoundException,
)
from snapruntime.workflows.configuration import runtime_of
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.reservations import check_reservation, reserve
from snapruntime.workflows.resolve import resolve_function
from snapruntime.workflows.runtime import Runtime
from snapruntime.workflows.versions import Versions

#: Invocations at once of which some can be reserved: what `serve` has unless it is told otherwise.
_TOTAL = Limits().concurrency
#: Options of `run` that say what function it is; they mean the same here. By their fields of FunctionConfiguration.
_OF_THE_FUNCTION = {
    "environment": ("environment",),
    "timeout": ("timeout_s",),
    "memory": ("memory_mb",),
    "python": ("python", "runtime"),
    "read_only": ("read_only",),
    "writable": ("writable",),
    "network": ("network",),
    "user": ("uid", "gid"),
    "hooks": ("hooks",),
}


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be published.

    Attributes:
        changes: fields of FunctionConfiguration that the command line says something of.
        settings: fields of FunctionSettings, likewise.
        unset: variables that the function's environment is to lose.
        alias: an alias that is to name the version.
    """

    function: Function
    changes: Mapping[str, Any]
    settings: Mapping[str, Any]
    unset: tuple[str, ...]
    description: str | None
    alias: str | None


@click.command()
@click.argument("handler")
@click.option(
    "--name",
    type=FunctionName(qualified=False),
    metavar="NAME",
    help="The function's name. [that of the handler's module]",
)
@click.option("--description", metavar="TEXT", help="What is to be said of the version.")
@click.option("--alias", metavar="NAME", help="Have this alias name the version, once it is Active.")
@click.option("--unset", multiple=True, metavar="K", help="Take a variable out of the environment. Repeatable.")
@click.option(
    "--snapshot/--no-snapshot",
    "snap_start",
    default=True,
    help="Whether versions have a snapshot (SnapStart); without, each process of theirs starts cold.",
)
@click.option(
    "--reuse/--fresh",
    default=None,
    help="Let a copy answer one invocation after the other, as on AWS; or one only. [--fresh]",
)
@click.option("--reserve", metavar="N|none", help="Keep so many invocations at once for it, which it may not exceed.")
@click.option("--json", "as_json", is_flag=True, help="Print the version as a JSON object, as Lambda's API has it.")
@click.option("--quiet", is_flag=True, help="Print only the version, and errors.")
@click.option("--debug", is_flag=True, help="Print all there is to know of an error.")
@click.pass_context
def publish(
    context: click.Context,
    /,
    handler: str,
    name: str | None,
    description: str | None,
    alias: str | None,
    unset: tuple[str, ...],
    reuse: bool | None,
    reserve: str | None,
    as_json: bool,
    quiet: bool,
    debug: bool,
    **options: Any,
) -> int:
    """Publish HANDLER as a version of a function, with a snapshot.

    HANDLER is a file (its function lambda_handler, or handler), file.py:function, or Lambda's module.function. Its
    folder is copied: what is changed there later is not part of the version. Options that are not given stay as they
    were when the function was published last. Where nothing has changed since, there is no new version.
    """
    given = {option for option in options if context.get_parameter_source(option) is not _DEFAULT}
    function = resolve_function(
        handler,
        name=name,
        environment=parse_environment(options["environment"]),
        timeout_s=options["timeout"],
        memory_mb=options["memory"],
        user=options["user"],
        **{option: options[option] for option in ("python", "read_only", "writable", "network", "hooks")},
    )
    if options["timeout"] != int(options["timeout"]):
        raise UsageError(f"--timeout {options['timeout']:g}: the configuration of a function has whole seconds.")
    order = Order(function, _changes(function, given, options), _settings(reuse, reserve), unset, description, alias)
    stopper = Stopper()
    output = Output(quiet=quiet, stopper=stopper)

    def work() -> int:
        with Functions(context.obj) as functions:
            version = _publish(functions, order, output, stopper)
            line = json.dumps(shapes.configuration(version, version.version)) if as_json else _summary(version)
            output.answer(line.encode())
        return exits.OK

    return stopper.run(work)


_DEFAULT = click.core.ParameterSource.DEFAULT
publish.params += [option for option in run.params if option.name in _OF_THE_FUNCTION]


def _changes(function: Function, given: set[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a configuration that the options say something of: those given, and the handler."""
    fields = {field for option in given & _OF_THE_FUNCTION.keys() for field in _OF_THE_FUNCTION[option]}
    changes = {field: getattr(function, field) for field in fields - {"runtime"}}
    if "runtime" in fields:
        changes["runtime"] = runtime_of(function.python)
    if "timeout_s" in changes:
        changes["timeout_s"] = int(function.timeout_s)
    if "snap_start" in given:
        changes["snap_start"] = _apply_on(options["snap_start"])
    return changes | {"module": function.module, "attribute": function.attribute}


def _settings(reuse: bool | None, reserve: str | None) -> dict[str, Any]:
    settings: dict[str, Any] = {} if reuse is None else {"reuse": "reuse" if reuse else "fresh"}
    if reserve is not None:
        if reserve != "none" and not (is_number(reserve) and len(reserve) < 10):
            raise UsageError(f"--reserve {reserve[:20]}: a number of invocations at once, or none.")
        settings["reserved_concurrency"] = None if reserve == "none" else int(reserve)
    return settings


def _apply_on(snap_start: bool) -> ApplyOn:
    return ApplyOn.PUBLISHED_VERSIONS if snap_start else ApplyOn.NONE


def _publish(functions: Functions, order: Order, output: Output, stopper: Stopper) -> FunctionVersion:
    name, settings = order.function.name, dict(order.settings)
    # Before there is a version that would have to go again.
    check_reservation(functions, name, settings.get("reserved_concurrency"), _TOTAL)
    version, is_new = _freeze(functions, order)
    if "reserved_concurrency" in settings:
        reserve(functions, name, settings.pop("reserved_concurrency"), _TOTAL)
    if settings:
        functions.change_settings(name, **settings)
    if order.settings and (version.version != "1" or not is_new):
        output.note(f"--reuse, --fresh and --reserve hold for all versions of {name}, from now on.")
    if version.state is State.PENDING:
        version = _prepare(functions, version, output, stopper)
    elif not is_new:
        what = "Nothing else" if order.settings else "Nothing"
        output.note(f"{what} has changed since {name}:{version.version} was published.")
    if order.alias is not None:
        _point(functions, name, order.alias, version.version)
    return version


def _freeze(functions: Functions, order: Order) -> tuple[FunctionVersion, bool]:
    """Make code and configuration the function's latest and a version; returns it, and whether it is a new one.

    Where somebody else changes the function meanwhile, ours is put on top of theirs: each gets a version of its own.
    """
    while True:
        try:
            known, latest = _store(functions, order)
            version = functions.publish(
                latest.name, description=order.description, revision_id=latest.revision_id
            )  # fmt: skip
        except PreconditionFailedException:
            continue
        return version, version.version not in known


def _store(functions: Functions, order: Order) -> tuple[set[str], FunctionVersion]:
    """Make code and configuration the function's latest; returns the versions that there were before, and that.

    Raises:
        PreconditionFailedException: somebody else changed it meanwhile.
    """
    function, folder = order.function, Path(order.function.task_root)
    try:
        versions = functions.versions(function.name)
    except ResourceNotFoundException:
        with contextlib.suppress(ResourceConflictException):  # Somebody else has created it just now.
            return set(), functions.create(function.name, _configuration(function, order.changes), folder)
        versions = functions.versions(function.name)
    old = versions[0].configuration
    environment = dict(old.environment) | order.changes.get("environment", {})
    kept = {name: value for name, value in environment.items() if name not in order.unset}
    changed = replace(old, **{**order.changes, "environment": kept})
    latest = functions.update(function.name, changed, folder, revision_id=versions[0].revision_id)
    return {version.version for version in versions}, latest


def _configuration(function: Function, changes: Mapping[str, Any]) -> FunctionConfiguration:
    """A new function's."""
    return FunctionConfiguration(
        module=function.module,
        attribute=function.attribute,
        python=function.python,
        runtime=changes.get("runtime") or runtime_of(function.python),
        environment=dict(function.environment),
        timeout_s=int(function.timeout_s),
        memory_mb=function.memory_mb,
        snap_start=changes.get("snap_start", ApplyOn.PUBLISHED_VERSIONS),
        read_only=function.read_only,
        writable=function.writable,
        uid=function.uid,
        gid=function.gid,
        network=function.network,
        hooks=function.hooks,
    )


def _prepare(functions: Functions, version: FunctionVersion, output: Output, stopper: Stopper) -> FunctionVersion:
    """Make the version's snapshot. Raises the error that made it fail."""
    errors: list[SnapruntimeError] = []
    log = RequestLog(None if output.quiet else output.log)
    began = time.monotonic()
    with Runtime(functions.home) as runtime, output.progress(f"Initialising {version.name}:{version.version}") as say:
        stopper.on_stop(runtime.close)
        prepared = Versions(functions, runtime).prepare(
            version, sink=log.sink, initialised=lambda _: say("Checkpointing"), failed=errors.append
        )
    if errors:
        log.lines()
        raise errors[0]
    log.lines()
    output.note(f"Snapshot {prepared.snapshot} made in {time.monotonic() - began:.1f} s.")
    return prepared


def _point(functions: Functions, name: str, alias: str, version: str) -> None:
    """Have an alias name a version, and nothing but it."""
    try:
        functions.update_alias(name, alias, version=version, weights={})
    except ResourceNotFoundException:
        functions.create_alias(name, alias, version)


def _summary(version: FunctionVersion) -> str:
    return f"{version.name}:{version.version} is {version.state}"
