"""The functions that are soaked, and what each may be asked to do wrong."""

from __future__ import annotations

import textwrap
from pathlib import Path

_ANSWER = '    return {"number": event["number"], "request": context.aws_request_id, "pid": os.getpid()}\n'

#: Name -> source. Each answers with what it was given, so that a mixed-up answer would be seen.
SOURCES = {
    "hello": f"""
import os

def handler(event, context):
{_ANSWER}""",
    "stateful": f"""
import os, threading, time
from snapruntime import register_after_restore, register_before_snapshot

memory = bytearray(os.urandom(8 << 20))
child = threading.Thread(target=time.sleep, args=(3600,), daemon=True)
child.start()
restores = []

@register_before_snapshot
def leave():
    with open("/tmp/left", "w") as file:
        file.write("x" * 4096)

@register_after_restore
def back():
    restores.append(1)

def handler(event, context):
    with open("/tmp/left", "a") as file:
        file.write("mine")
    # 4 after a cold start: no hook has run there.
    assert os.path.getsize("/tmp/left") == 4 + 4096 * len(restores) and len(restores) < 2 and child.is_alive()
    memory[::4096] = bytes(len(memory) // 4096)
{_ANSWER}""",
    "moody": f"""
import os
from snapruntime import register_after_restore

@register_after_restore
def sometimes():
    mood = os.urandom(1)[0]
    if mood < 8:
        raise ValueError("not now")
    if mood < 12:
        os._exit(9)
    if mood < 16:
        os.write(3, b"garbage in place of a frame")

def handler(event, context):
{_ANSWER}""",
    "saboteur": f"""
import os, resource, struct, subprocess, sys, time

def handler(event, context):
    match event.get("do"):
        case "raise": raise KeyError("as asked for")
        case "exit": os._exit(7)
        case "abort": os.abort()
        case "sleep": time.sleep(60)
        case "garbage": os.write(3, os.urandom(64) + b"x" * 64); time.sleep(60)
        case "oversized frame": os.write(3, struct.pack("!II", 10, 0xFFFFFFFF)); time.sleep(60)
        case "half a frame": os.write(3, struct.pack("!II", 100, 0) + b'{{"type": '); os._exit(0)
        case "closed channel": os.close(3); time.sleep(60)
        case "huge response": return "x" * (7 << 20)
        case "no memory":
            resource.setrlimit(resource.RLIMIT_AS, (1 << 20, 1 << 20))
            return len(bytes(256 << 20))
        case "too much memory": return len(bytearray(b"x") * (1 << 30))
        case "no descriptors":
            resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
            return [open("/dev/null") for _ in range(10)] and None
        case "no processes":
            resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
            return os.fork()
        case "log flood":
            for _ in range(40):
                print("flood " * 10000)
        case "orphans":
            for _ in range(3):
                subprocess.Popen(["sleep", "3600"], start_new_session=True)
        case "full /tmp":
            with open("/tmp/big", "wb") as file:
                while True:
                    file.write(bytes(16 << 20))
{_ANSWER}""",
}

#: What the saboteur does -> how the invocation may end: "answered", or the errorType.
SABOTAGE = {
    "raise": {"KeyError"},
    "exit": {"Runtime.ExitError"},
    "abort": {"Runtime.ExitError"},
    "sleep": {"Sandbox.Timedout"},
    "garbage": {"Runtime.Unknown"},
    "oversized frame": {"Runtime.Unknown"},
    "half a frame": {"Runtime.ExitError", "Runtime.Unknown"},
    "closed channel": {"Runtime.Unknown", "Runtime.ExitError"},
    "huge response": {"Function.ResponseSizeTooLarge"},
    "no memory": {"MemoryError", "Runtime.ExitError"},
    "too much memory": {"Runtime.OutOfMemory", "Sandbox.Timedout"},
    "no descriptors": {"OSError", "Runtime.ExitError"},
    "no processes": {"BlockingIOError"},
    "log flood": {"answered", "Sandbox.Timedout"},
    "orphans": {"answered"},
    "full /tmp": {"OSError", "Sandbox.Timedout"},
}


def write_all(folder: Path) -> dict[str, Path]:
    """Write every function for everybody to read; name -> its handler's file."""
    files = {}
    for name, source in SOURCES.items():
        path = folder / name / "handler.py"
        path.parent.mkdir(mode=0o755, parents=True)
        path.write_text(textwrap.dedent(source), "utf-8")
        path.chmod(0o644)
        files[name] = path
    return files
