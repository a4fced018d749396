"""One `snapruntime serve`: all its parts put together, and taken apart in the right order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
from prometheus_client import Histogram

from snapruntime.edges import exits
from snapruntime.edges.interrupt import abandon, on_signals
from snapruntime.edges.serve.api import Routes
from snapruntime.edges.serve.control import ControlCalls
from snapruntime.edges.serve.event_calls import EventCalls
from snapruntime.edges.serve.frontend import Frontend
from snapruntime.edges.serve.invocation import InvocationCalls
from snapruntime.edges.serve.life import Life
from snapruntime.edges.serve.listeners import Listener, open_listeners
from snapruntime.edges.serve.operations import operations
from snapruntime.edges.serve.pages import Pages
from snapruntime.edges.serve.settings import SettingsCalls
from snapruntime.edges.serve.sigv4 import Key, read_keys
from snapruntime.edges.serve.tag_calls import TagCalls
from snapruntime.edges.serve.urls import FunctionUrls
from snapruntime.values.answer import Limits
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.host import FunctionHost
from snapruntime.workflows.preparing import Preparing
from snapruntime.workflows.runtime import Runtime
from snapruntime.workflows.urls import FunctionUrlService
from snapruntime.workflows.versions import Versions

#: Calls that run functions beyond the limit of concurrency: they wait for their turn, or are told that there is none.
_WAITING = 64
#: How soon a thread that wants the interpreter gets it from another, seconds. Python's own 5 ms are longer than a whole
#: answer of a parked copy, which the threads that restore and take away others would then hold up.
_SWITCH_S = 0.0005
_BUCKETS_S = (0.0005, 0.001, 0.0015, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 900)


@dataclass(frozen=True, slots=True)
class Options:
    """What `snapruntime serve` was asked for; see its options."""

    home: Path
    listen: tuple[str, ...]
    keys: Path | None
    anyone: bool
    code_folders: tuple[Path, ...]
    limits: Limits
    connections: int
    drain_s: float


def run(options: Options) -> int:
    """Serve until a signal ends it. Returns the exit code."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    keys = read_keys(options.keys) if options.keys else None
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.ExitStack() as stack:
        listeners = open_listeners(options.listen, anyone=keys is not None or options.anyone)
        for listener in listeners:
            stack.callback(listener.close)
        runtime = stack.enter_context(Runtime(options.home))
        functions = stack.enter_context(Functions(options.home))
        versions = Versions(functions, runtime)
        preparing = stack.enter_context(Preparing(versions))
        host = stack.enter_context(FunctionHost(functions, versions, options.limits))
        _allow_descriptors(options.connections)
        # What there is by now stays. To look through it for what is old took 20 ms, again and again, in which nobody
        # was answered.
        gc.collect()
        gc.freeze()
        ended = asyncio.run(_serve(options, keys, listeners, runtime, host, preparing))
        on_signals(lambda *_: None)  # Further signals do not disturb the clean-up.
        code = exits.OK if runtime.alive() else exits.HOST
        if not ended:
            abandon(code)
    return code


def _allow_descriptors(connections: int) -> None:
    """Raise our limit of open files as far as we may. The spawner, and so functions, keep the one they have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A copy takes some too, but there are never as many copies as connections.
    wanted = 3 * connections + soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


async def _serve(
    options: Options,
    keys: dict[str, Key] | None,
    listeners: list[Listener],
    runtime: Runtime,
    host: FunctionHost,
    preparing: Preparing,
) -> bool:
    """Whether all that ran has come to its end."""
    seconds = Histogram(
        "snapruntime_http_request_seconds",
        "From the request read to the answer written.",
        ["call", "status"],
        registry=host.metrics.registry,
        buckets=_BUCKETS_S,
    )
    urls = FunctionUrls(FunctionUrlService(host.functions), host, lambda: frontend.keys)
    calls = operations(
        InvocationCalls(host),
        ControlCalls(host.functions, preparing.begin, options.code_folders),
        SettingsCalls(host.functions, options.limits, _url_address(listeners)),
        EventCalls(host.functions),
        TagCalls(host.functions),
    )
    frontend = Frontend(
        Routes(calls),
        urls,
        Pages(host.metrics.registry, lambda: life.ready),
        keys=keys,
        any_host=options.anyone,
        connections=options.connections,
        invocations=options.limits.concurrency + _WAITING,
        observe=lambda call, status, took: seconds.labels(call, str(status)).observe(took),
    )

    def reload() -> None:
        if options.keys is not None:
            frontend.keys = read_keys(options.keys)

    def drain(seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        return host.drain(seconds) and preparing.drain(max(0.0, deadline - time.monotonic()))

    life = Life(frontend, listeners, reload=reload, drain=drain, drain_s=options.drain_s, alive=runtime.alive)
    try:
        return await life.run(announce=lambda: _announce(listeners))
    finally:
        frontend.abandon()


def _announce(listeners: list[Listener]) -> None:
    for listener in listeners:
        click.echo(f"Listening on {listener.describe()}")


def _url_address(listeners: list[Listener]) -> str:
    """What the addresses of function URLs end in: a name that clients on this machine need not look up."""
    ports = [listener.port for listener in listeners if listener.port is not None]
    return f"lambda-url.localhost:{ports[0]}" if ports else "lambda-url.localhost"
