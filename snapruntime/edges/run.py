"""`snapruntime run`: the options, and what they mean."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import get_args

import click

from snapruntime.edges.interrupt import Stopper
from snapruntime.edges.session import Order, Session
from snapruntime.mechanisms.credentials import own_credentials
from snapruntime.values.errors import UsageError
from snapruntime.values.function import MEMORY_MB
from snapruntime.values.model import PAYLOAD_LIMIT, Function, Network
from snapruntime.workflows.ask import encode_event
from snapruntime.workflows.resolve import resolve_function

#: How many pairs `--compare` answers where no number is asked for.
_COMPARED = 5
#: How many may be asked for: each is kept in memory, from before the first is answered.
_MOST = 100_000


@click.command()
@click.argument("handler")
@click.option("--event", default="{}", metavar="JSON|@FILE|-", help="The event: JSON, a file, or standard input. [{}]")
@click.option("-n", "--count", type=click.IntRange(1, _MOST), help="Answer the event so many times. [1]")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    default=1,
    metavar="N",
    help="Have so many copies alive at once. [1]",
)
@click.option(
    "--env",
    "environment",
    multiple=True,
    metavar="K=V",
    help="Set a variable in the function's environment. Repeatable.",
)
@click.option("--timeout", type=float, default=3.0, metavar="SECONDS", help="The longest an invocation may take. [3]")
@click.option(
    "--memory",
    type=click.IntRange(*MEMORY_MB),
    default=512,
    metavar="MB",
    help="The memory that the function has. [512]",
)
@click.option("--python", metavar="PATH", help="Interpreter or virtual environment to run the function with.")
@click.option("--cold", is_flag=True, help="No snapshot: a fresh process per invocation.")
@click.option(
    "--compare", is_flag=True, help=f"Answer by cold starts and by copies, and compare the times. [-n {_COMPARED}]"
)
@click.option("--rebuild", is_flag=True, help="Make a new snapshot even where an earlier one is good.")
@click.option(
    "--plain-images",
    is_flag=True,
    help="Leave CRIU's images as they are: copies read their memory instead of mapping it.",
)
@click.option("--hook", "hooks", multiple=True, metavar="NAME", help="Take a ready-made hook. Repeatable.")
@click.option(
    "--restore-env",
    "restore_environment",
    multiple=True,
    metavar="K=V",
    help="Set a variable in each copy, before its after-restore hooks. Repeatable.",
)
@click.option(
    "--keep-seeds",
    is_flag=True,
    help="Leave generators that init seeded explicitly (random.seed(42)) in their state, the same in every copy.",
)
@click.option(
    "--credentials",
    is_flag=True,
    help="Serve the function your AWS credentials, renewed in each copy, and take the hook boto3.",
)
@click.option("--ro", "read_only", multiple=True, metavar="PATH", help="Show the function this path too. Repeatable.")
@click.option(
    "--rw", "writable", multiple=True, metavar="PATH", help="Let the function write to this path. Repeatable."
)
@click.option(
    "--network",
    type=click.Choice(get_args(Network)),
    default="host",
    help="The network it sees: the host's, none, or a loopback of its own. [host]",
)
@click.option("--user", default="nobody", metavar="NAME|UID", help="The user it runs as. [nobody]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per invocation.")
@click.option("--quiet", is_flag=True, help="Print only responses, and errors.")
@click.option("--debug", is_flag=True, help="Print all there is to know of an error.")
@click.pass_obj
def run(
    home: Path,
    handler: str,
    event: str,
    count: int | None,
    concurrency: int,
    environment: tuple[str, ...],
    timeout: float,
    memory: int,
    python: str | None,
    cold: bool,
    compare: bool,
    rebuild: bool,
    plain_images: bool,
    hooks: tuple[str, ...],
    restore_environment: tuple[str, ...],
    keep_seeds: bool,
    credentials: bool,
    read_only: tuple[str, ...],
    writable: tuple[str, ...],
    network: Network,
    user: str,
    as_json: bool,
    quiet: bool,
    debug: bool,
) -> int:
    """Answer events with copies of a snapshot of HANDLER.

    HANDLER is a file (its function lambda_handler, or handler), file.py:function, or Lambda's module.function. Its
    snapshot is kept, and used again by later runs for as long as nothing that it was made from has changed.

    Responses go to standard output, the log to standard error.
    """
    of_snapshots = {
        "--compare": compare,
        "--rebuild": rebuild,
        "--plain-images": plain_images,
        "--restore-env": bool(restore_environment),
        "--keep-seeds": keep_seeds,
    }
    for option, given in of_snapshots.items():
        if cold and given:
            raise UsageError(f"--cold makes no snapshot, so {option} has no meaning with it.")
    function = function_of(
        handler,
        python=python,
        environment=environment,
        timeout=timeout,
        memory=memory,
        read_only=read_only,
        writable=writable,
        network=network,
        user=user,
        hooks=hooks,
        credentials=credentials,
    )
    order = Order(
        home=home,
        function=function,
        event=read_event(event),
        count=count or (_COMPARED if compare else 1),
        concurrency=concurrency,
        cold=cold,
        compare=compare,
        rebuild=rebuild,
        plain_images=plain_images,
        keep_seeds=keep_seeds,
        credentials=credentials,
        restore_environment=parse_environment(restore_environment, "--restore-env"),
        as_json=as_json,
        quiet=quiet,
        debug=debug,
    )
    stopper = Stopper()
    return stopper.run(lambda: Session(order, stopper).run())


def function_of(
    handler: str,
    *,
    python: str | None,
    environment: tuple[str, ...],
    timeout: float,
    memory: int,
    read_only: tuple[str, ...],
    writable: tuple[str, ...],
    network: Network,
    user: str,
    hooks: tuple[str, ...],
    credentials: bool,
) -> Function:
    """The function that HANDLER and the options about it name. Raises UsageError."""
    if both := {*map(os.path.abspath, read_only)} & {*map(os.path.abspath, writable)}:
        raise UsageError(f"{min(both)} is given with --ro and with --rw.", hint="--rw shows it as well.")
    function = resolve_function(
        handler,
        python=python,
        environment=parse_environment(environment),
        timeout_s=timeout,
        memory_mb=memory,
        read_only=read_only,
        writable=writable,
        network=network,
        user=user,
        hooks=(*hooks, *(("boto3",) if credentials else ())),
    )
    if credentials:
        own_credentials()  # that there are some is better known before than by an error within the function
    return function


def parse_environment(pairs: tuple[str, ...], option: str = "--env") -> dict[str, str]:
    """`--env K=V` as a mapping; of the same name, the last counts."""
    environment = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise UsageError(f"{option} {pair} does not have the form NAME=VALUE.")
        environment[name] = value
    return environment


def read_event(event: str) -> bytes:
    """The event that `--event` names, as JSON.

    Raises:
        UsageError: it cannot be read, is too large, or no JSON.
    """
    if event == "-":
        if sys.stdin is None:  # What Python makes of a descriptor 0 that was closed when it started.
            raise UsageError("The event cannot be read: standard input is closed.")
        body = sys.stdin.buffer.read(PAYLOAD_LIMIT + 1)
    elif event.startswith("@"):
        try:
            if not stat.S_ISREG(os.stat(event[1:]).st_mode):  # A pipe may never end, or never begin.
                raise UsageError(f"The event file {event[1:]} is no regular file.", hint="`--event -` reads a pipe.")
            with open(event[1:], "rb") as file:
                body = file.read(PAYLOAD_LIMIT + 1)
        except OSError as error:
            raise UsageError(f"The event file {event[1:]} cannot be read: {error.strerror}.") from error
    else:
        body = os.fsencode(event)
    if len(body) > PAYLOAD_LIMIT:
        raise UsageError(
            f"The event is larger than the {PAYLOAD_LIMIT} bytes that Lambda takes.",
            hint="Put the data where the function can fetch it, and send its name.",
        )
    try:
        text = str(body, "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UsageError(f"The event is not UTF-8: {error}.") from error
    return encode_event(text.encode())
