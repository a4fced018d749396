"""wrk, the HTTP load generator (Debian's package): one run of it as numbers."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from snapruntime import UsageError

#: A POST of one body; an answer that is not as expected counts as wrong. The summary is one line of JSON.
_SCRIPT = """
local threads = {}

function setup(thread) table.insert(threads, thread) end

function init(arguments)
  wrong = 0
  wrk.method, wrk.path, wrk.body, expected = "POST", arguments[1], arguments[2], arguments[3]
  good, pause = tonumber(arguments[4]), tonumber(arguments[5])
  wrk.headers["Content-Type"] = "application/json"
end

-- At random moments (Poisson's), else all connections would send at the same ones.
function delay() return -math.log(1 - math.random()) * pause end

function response(status, headers, body)
  if status ~= good or headers["X-Amz-Function-Error"] or not string.find(body, expected, 1, true) then
    wrong = wrong + 1
  end
end

function done(summary, latency, requests)
  local wrong, e = 0, summary.errors
  for _, thread in ipairs(threads) do wrong = wrong + thread:get("wrong") end
  print(string.format(
    '{"requests": %d, "seconds": %f, "wrong": %d, "broken": %d, "p50": %f, "p90": %f, "p99": %f, "most": %f}',
    summary.requests, summary.duration / 1e6, wrong, e.connect + e.read + e.write + e.timeout,
    latency:percentile(50) / 1000, latency:percentile(90) / 1000, latency:percentile(99) / 1000, latency.max / 1000))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of a run.

    Attributes:
        requests: those answered.
        seconds: how long it took.
        wrong: answers that were not as expected.
        broken: connections that failed, and answers that did not come in time.
        p50, p90, p99, most: milliseconds, as the client saw them.
    """

    requests: int
    seconds: float
    wrong: int
    broken: int
    p50: float
    p90: float
    p99: float
    most: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def run_wrk(
    url: str,
    path: str,
    body: str,
    expected: str,
    *,
    connections: int,
    seconds: float,
    status: int = 200,
    header: str = "Accept: */*",
    pause_ms: int = 0,
) -> Load:
    """Keep `connections` requests at once going for so long.

    Args:
        expected: what each answer has in it.
        status: its status.
        header: another one of each request.
        pause_ms: how long each connection waits before its next request, on average: times by chance, distributed
            exponentially. That time is not part of an answer's.

    Raises:
        UsageError: there is no wrk.
    """
    program = shutil.which("wrk")
    if program is None:
        raise UsageError("There is no wrk on this machine.", hint="apt-get install wrk, or `make load-test` as root.")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_SCRIPT)
        script.flush()
        options = ["-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "30s", "-H", header, "-s", script.name]
        command = [program, *options, url, "--", path, body, expected, str(status), str(pause_ms)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Load(**json.loads(done.stdout.splitlines()[-1]))
