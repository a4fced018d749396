"""A host that lets us make no control groups, as containers often do: functions run, it is said once what is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import Write

from snapruntime.mechanisms.cgroup import CONTROLLERS, LIMITED, find_hierarchies

#: In a mount namespace of its own: what is to be done to each mounted hierarchy, then the command.
AROUND = """
for point in $(awk '$3 ~ /^cgroup2?$/ { print $2 }' /proc/self/mounts); do
    case $point in *) %s;; esac || exit 99
done
exec "$@"
"""
HOSTS = {
    "none mounted": AROUND % 'umount --lazy "$point"',
    "read-only": AROUND % 'mount -o remount,bind,ro "$point"',
    "without memory": AROUND.replace("*)", "*/memory)") % 'umount --lazy "$point"',
}
LOST = {"none mounted": CONTROLLERS, "read-only": CONTROLLERS, "without memory": ("memory",)}


def on(host: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`snapruntime ARGUMENTS` where control groups are as `HOSTS` says."""
    command = [sys.executable, "-m", "snapruntime", "--home", str(home), *arguments]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", HOSTS[host], "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 99, done.stderr
    return done


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    if request.param == "without memory" and any(one.version == 2 for one in find_hierarchies()):
        pytest.skip("the memory controller is not in a hierarchy of its own")
    return str(request.param)


@pytest.mark.may_skip("hosts with cgroup v2 only have all controllers in one hierarchy")
def test_run_says_once_what_is_not_limited(host: str, criu_home: Path, write: Write) -> None:
    function = write("def handler(event, context): return len(bytearray(b'x') * (64 << 20)) >> 20")
    done = on(host, criu_home, "run", f"{function.task_root}/handler.py", "-n", "3", "--json")
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["result"] for answer in answers] == [64] * 3
    assert all(64 <= answer["max_memory_mb"] < 110 for answer in answers), "measured without groups too"
    said = [" ".join(part.split()) for part in done.stderr.replace("\n", " ").split("Not limited on this host: ")[1:]]
    assert len(said) == 1
    assert said[0].startswith(f"the function's {', '.join(LIMITED[name] for name in LOST[host])}. See")


@pytest.mark.may_skip("hosts with cgroup v2 only have all controllers in one hierarchy")
def test_doctor_says_why_and_what_to_do(host: str, criu_home: Path) -> None:
    done = on(host, criu_home, "doctor", "--json")
    assert done.returncode == 0, "it can run all the same"
    (probe,) = [probe for probe in json.loads(done.stdout)["probes"] if probe["name"] == "limits"]
    assert (probe["status"], probe["required"]) == ("degraded", False)
    for name in CONTROLLERS:
        assert (LIMITED[name] in probe["detail"]) == (name in LOST[host])
    assert probe["fix"]


def test_nothing_is_said_where_all_is_limited(criu_home: Path, write: Write) -> None:
    if {name for one in find_hierarchies() for name in one.controllers} != set(CONTROLLERS):
        pytest.skip("not all is limited here")
    function = write("def handler(event, context): return 1")
    done = subprocess.run(
        [sys.executable, "-m", "snapruntime", "--home", str(criu_home), "run", f"{function.task_root}/handler.py"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Not limited" in done.stderr) == (0, False)
