"""One QEMU: its command line, and what its console tells."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from machines.catalogue import Machine, Step
from machines.guest import MARK
from machines.image import Kernel, Say

#: Seconds from power on to the first step, and from the last one to power off.
BOOT_S = 300.0
#: Escape sequences by which systemd colours and resets its console.
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[\]P][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[c=>]|\r")


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one step.

    Attributes:
        status: its exit status; None where it did not end in its time, or the machine did not get to its end.
        seconds: on the machine's clock.
        lines: what it printed.
    """

    step: Step
    status: int | None
    seconds: float
    lines: tuple[str, ...]

    @property
    def trouble(self) -> str:
        """What is wrong with it; "" where nothing is."""
        if self.status != self.step.status:
            return "did not end" if self.status is None else f"status {self.status} in place of {self.step.status}"
        text = "\n".join(self.lines) + "\n"
        if self.passed < self.step.passes:
            return f"{self.passed} tests passed, at least {self.step.passes} must"
        return "" if re.search(self.step.says, text) else f"does not say {self.step.says!r}"

    @property
    def passed(self) -> int:
        """How many tests passed, as pytest says in the end."""
        found = re.findall(r"^(?:.* )?(\d+) passed", "\n".join(self.lines), re.MULTILINE)
        return int(found[-1]) if found else 0


def command(machine: Machine, kernel: Kernel, disks: Sequence[Path], memory_mb: int = 3072) -> list[str]:
    """How QEMU is started. What the machine writes to its disks is gone when it ends."""
    init = "/usr/sbin/init" if machine.init == "systemd" else "/project/src/tests/machines/disk/plain-init"
    console = "ttyAMA0" if machine.arm else "ttyS0"
    options = f"console={console} quiet loglevel=3 panic=-1 init={init}"
    if machine.init == "systemd":
        options += " systemd.show_status=no systemd.getty_auto=no"
    argv = [machine.emulator, "-M", "virt,gic-version=3" if machine.arm else "q35"]
    argv += ["-accel", "tcg,thread=multi", "-cpu", machine.cpu, "-smp", "2", "-m", str(memory_mb)]
    argv += ["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio", "-device", "virtio-rng-pci"]
    for disk in disks:
        argv += ["-drive", f"file={disk},format=raw,if=virtio,snapshot=on"]
    return [*argv, "-kernel", str(kernel.file), "-initrd", str(kernel.initrd), "-append", options]


def boot(machine: Machine, argv: Sequence[str], console: Path, say: Say) -> list[Result]:
    """Start the machine, follow its steps to its end, and keep all that it prints in the file `console`."""
    steps = {step.name: step for step in machine.steps}
    results: list[Result] = []
    lines: list[str] = []
    deadline = time.monotonic() + BOOT_S
    # It leaves the processors to whatever else runs on the host, and ends with us.
    with (
        console.open("w", encoding="utf-8") as file,
        subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "nice", "-n", "10", *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        assert process.stdout is not None
        printed = bytearray()
        try:
            while (line := _next_line(process.stdout.fileno(), printed, deadline)) is not None:
                file.write(f"{line}\n")
                file.flush()
                told = json.loads(line.removeprefix(MARK)) if line.startswith(MARK) else {}
                if "begin" in told:
                    lines = []
                    say(told["begin"])
                    deadline = time.monotonic() + steps[told["begin"]].seconds + BOOT_S
                elif "end" in told:
                    results.append(Result(steps[told["end"]], told["status"], told["seconds"], tuple(lines)))
                    lines = []
                    deadline = time.monotonic() + BOOT_S
                elif line:
                    lines.append(line)
        finally:
            process.kill()
    done = [result.step for result in results]
    for step in machine.steps:
        if step not in done:
            results.append(Result(step, None, 0.0, tuple(lines)))
            lines = []
    return results


def _next_line(fd: int, printed: bytearray, deadline: float) -> str | None:
    """The next line of the console; None where there is none any more, or none by the deadline."""
    while b"\n" not in printed:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(fd, 65536) if ready else b""
        if not chunk:
            return None
        printed += chunk
    line, _, rest = bytes(printed).partition(b"\n")
    printed[:] = rest
    return _ESCAPES.sub("", line.decode(errors="replace")).rstrip()
