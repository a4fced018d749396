"""`make container-test`: build the Dockerfile as it is; try the image, privileged and with the README's least flags.

Each trial is a line: whether it held, what was tried, what was seen. The lines, below a head that names the machine, go
to build/container-test/<engine>.log too; docs/platforms/ keeps the last ones.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent))

from containers.engine import BASE, Unusable, find_engine, provide_base  # noqa: E402
from containers.trials import TRIALS, Failed, Lab  # noqa: E402

IMAGE, SUITE = "snapruntime-test", "snapruntime-test-suite"
#: What only `make lint` needs of the development packages.
_LINT = ("mypy", "pandas-stubs", "ruff", "snapruntime", "types-")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make container-test ARGS=...", description="Try the image in containers.")
    parser.add_argument("--engine", choices=("docker", "podman"), help="use this one")
    parser.add_argument("--only", action="append", metavar="WORDS", help="only trials with this in their name")
    options = parser.parse_args()
    work = ROOT / "build" / "container-test"
    work.mkdir(parents=True, exist_ok=True)
    try:
        engine = find_engine(options.engine, work)
        base = provide_base(engine, work)
    except Unusable as error:
        print(error, file=sys.stderr)
        return 3
    trials = [trial for trial in TRIALS if not options.only or any(words in trial.name for words in options.only)]
    parent = engine.identity(IMAGE)
    engine.build(IMAGE, ROOT)
    if engine.identity(IMAGE) != parent:
        engine("rmi", SUITE)  # It was on the old one, and has 1.5 GB.
    if any("suite" in trial.name or "bench" in trial.name for trial in trials):
        engine.build(SUITE, _suite_context(work), f"IMAGE={IMAGE}")
    lab = Lab(engine, ROOT, IMAGE, SUITE)
    held = 0
    with (work / f"{engine.name}.log").open("w") as log:

        def say(line: str) -> None:
            for file in (sys.stdout, log):
                print(line, file=file, flush=True)

        for line in _head(lab, base):
            say(line)
        for trial in trials:
            print(f"... {trial.name}", file=sys.stderr)
            started = time.monotonic()
            try:
                word, seen = "held", trial.make(lab)
                held += 1
            except (Failed, subprocess.SubprocessError) as error:
                word, seen = "FAILED", str(error)
            say(f"{word}  {trial.name}  [{time.monotonic() - started:.0f} s]\n      {seen}")
        say(f"{held} of {len(trials)} held")
    return 0 if held == len(trials) else 1


def _suite_context(work: Path) -> Path:
    """A folder to build the suite's image from: it changes with what the tests need, not with the tests."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    wanted = [name for name in (*extras["bench"], *extras["dev"]) if not name.startswith(_LINT)]
    folder = work / "suite"
    folder.mkdir(exist_ok=True)
    (folder / "requirements.txt").write_text("\n".join(wanted) + "\n")
    shutil.copy(HERE / "suite.Dockerfile", folder / "Dockerfile")
    shutil.copy(ROOT / ".ci" / "servers", folder)
    return folder


def _head(lab: Lab, base: str) -> Iterator[str]:
    described = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    revision = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    yield f"make container-test, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, revision {revision}"
    yield f"machine    Linux {platform.release()}, {platform.machine()}, {os.cpu_count()} processors"
    yield f"engine     {lab.engine.name} {lab.engine.version}; privileged: {' '.join(lab.engine.privileged)}"
    yield f"image      {lab.engine.size_mb(IMAGE):.0f} MB, of which base {lab.engine.size_mb(BASE):.0f} MB, {base}"
    yield f"inside     {lab.inside()}"


if __name__ == "__main__":
    sys.exit(main())
