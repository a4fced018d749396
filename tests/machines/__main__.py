"""`python -m machines TARGET [--record] [MACHINE …]`: boot each machine in turn, and tell what came of it.

Exit status 1 where a step was not as it must be. The whole of what a machine printed stays in the cache folder.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial

from machines import boot, image, project, report, tools
from machines.catalogue import ARM64, KERNELS, Machine

#: By the target of the Makefile.
TARGETS = {"test-kernels": KERNELS, "test-arm64": ARM64}

_BEGAN = time.monotonic()


def say(what: str, machine: str = "") -> None:
    """One line for people, with the seconds since the start."""
    print(f"{time.monotonic() - _BEGAN:5.0f} s  {machine:18}{what}", flush=True)


def try_out(machine: Machine, target: str, *, record: bool) -> bool:
    """Boot one machine and follow it; whether all was as it must be."""
    tell = partial(say, machine=machine.name)
    disk, kernels = image.provide(machine.image, tell)
    console = image.cache_folder() / f"{machine.name}.console"
    with project.provide(machine, tell) as second:
        tell("boots")
        argv = boot.command(machine, kernels[machine.kernel], (disk, second))
        results = boot.boot(machine, argv, console, tell)
    for result in results:
        if result.trouble:
            tell(f"{result.step.name}: {result.trouble}; all that was printed is in {console}")
            print("".join(f"    {line}\n" for line in result.lines[-40:]), end="")
    if record:
        report.record(machine, report.log_text(machine, target, results))
    tell(report.outcome(results))
    return not any(result.trouble for result in results)


def main() -> None:
    parser = argparse.ArgumentParser(prog="machines", description="The project on other kernels and processors.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("machines", nargs="*", metavar="MACHINE", help="only these")
    parser.add_argument("--record", action="store_true", help="keep the logs in docs/platforms")
    given = parser.parse_intermixed_args()
    known = {machine.name: machine for machine in TARGETS[given.target]}
    if strange := set(given.machines) - set(known):
        parser.error(f"{', '.join(sorted(strange))}: not among {', '.join(known)}")
    chosen = [machine for name, machine in known.items() if not given.machines or name in given.machines]
    tools.provide([machine.emulator for machine in chosen])
    good = [try_out(machine, given.target, record=given.record) for machine in chosen]
    passed, failed = good.count(True), good.count(False)
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
