"""`snapruntime serve`: the options, and what they mean."""

from __future__ import annotations

from pathlib import Path

import click

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option(
    "--listen",
    multiple=True,
    metavar="HOST:PORT|unix:PATH",
    help="Where to listen; port 0 is any free one. Repeatable. [127.0.0.1:3001, or what systemd opened]",
)
@click.option(
    "--keys",
    type=_FILE,
    metavar="FILE",
    help="Let only requests in that a key of this file has signed (SigV4). It has the form of ~/.aws/credentials.",
)
@click.option(
    "--let-anyone-run-code",
    "anyone",
    is_flag=True,
    help="Listen beyond this machine without --keys: whoever reaches the port runs any code here.",
)
@click.option(
    "--code-folder",
    "code_folders",
    multiple=True,
    type=_FOLDER,
    metavar="FOLDER",
    help="Let clients name folders below this one as code. Repeatable. [none: code comes as zip files]",
)
@click.option(
    "--concurrency", type=click.IntRange(1, 10000), default=1000, metavar="N", help="Invocations at once. [1000]"
)
@click.option(
    "--queue",
    type=click.FloatRange(0),
    default=30.0,
    metavar="SECONDS",
    help="The longest that an invocation waits for its turn before it is refused (429). [30]",
)
@click.option(
    "--warm",
    type=click.IntRange(0),
    default=1,
    metavar="N",
    help="Copies restored ahead for each version in use, at least; 0 for none at all. [1]",
)
@click.option(
    "--idle",
    type=click.FloatRange(0, min_open=True),
    default=300.0,
    metavar="SECONDS",
    help="After so long without an invocation a version keeps no copies. [300]",
)
@click.option(
    "--memory",
    type=click.IntRange(16),
    metavar="MB",
    help="What all copies together may have in memory. [three quarters of the host's]",
)
@click.option(
    "--connections",
    type=click.IntRange(1),
    default=4096,
    metavar="N",
    help="Connections at once; beyond, those that have waited longest for a request are closed. [4096]",
)
@click.option(
    "--drain",
    type=click.FloatRange(0),
    default=30.0,
    metavar="SECONDS",
    help="The longest that running invocations may take when the server is to end. [30]",
)
@click.pass_obj
def serve(
    home: Path,
    listen: tuple[str, ...],
    keys: Path | None,
    anyone: bool,
    code_folders: tuple[Path, ...],
    concurrency: int,
    queue: float,
    warm: int,
    idle: float,
    memory: int | None,
    connections: int,
    drain: float,
) -> int:
    """Serve named functions by AWS Lambda's API: boto3 and the AWS CLI need another endpoint URL, and nothing else.

    Functions are made by `snapruntime publish` or by the API itself. SIGTERM and Ctrl-C let running invocations come
    to their end; SIGHUP has the file of keys read anew.
    """
    # It brings in an HTTP server, which no other command needs.
    from snapruntime.edges.serve.service import Options, run
    from snapruntime.values.answer import Limits

    return run(
        Options(
            home=home,
            listen=listen,
            keys=keys,
            anyone=anyone,
            code_folders=code_folders,
            limits=Limits(
                concurrency=concurrency,
                queue_s=queue,
                warm=warm,
                warm_most=max(warm, Limits().warm_most) if warm else 0,
                idle_s=idle,
                memory_bytes=None if memory is None else memory << 20,
            ),
            connections=connections,
            drain_s=drain,
        )
    )
