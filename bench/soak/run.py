"""The soak itself: requests by several threads, a fault for some of them, and what became of each.

What is done to which request follows from the seed; when exactly it strikes, and whom of those about it hits, does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from snapruntime import (
    Function,
    Instance,
    Runtime,
    SnapruntimeError,
    Snapshot,
    SnapshotError,
    UsageError,
    resolve_function,
)
from snapruntime.mechanisms.store import Store

from .book import Book, Entry, Weather
from .counts import STUCK, abandoned_groups, count, spawner_of
from .functions import write_all
from .harm import damage, fill, pidfd_of, send
from .plan import WEATHER, Plan

ROOT = Path(__file__).resolve().parents[2]


class Soak:
    """One runtime under load.

    Args:
        home: a data folder on a file system of its own, with CRIU set up.
        seed: decides what is done to which request.
        say: receives a line now and then.
    """

    def __init__(self, home: Path, runtime: Runtime, seed: int, say: Callable[[str], None]) -> None:
        self.home = home
        self.book = Book()
        self.kills = 0
        self._runtime = runtime
        self._seed = seed
        self._say = say
        self._weather = Weather()
        files = write_all(home / "functions" / "code")
        self._functions = {name: resolve_function(path, timeout_s=5.0) for name, path in files.items()}
        # What fills /tmp has memory for all of it, so that it is /tmp that is full.
        self._hasty = {name: resolve_function(path, timeout_s=0.7, memory_mb=640) for name, path in files.items()}
        self._store = threading.Lock()  # One fault in the store at a time, else none would know its own.
        self._snapshots: dict[str, Snapshot] = {}

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """All functions' snapshots, open."""
        with contextlib.ExitStack() as stack:
            for name, function in self._functions.items():
                fault_function = self._hasty[name] if name == "saboteur" else function
                snapshot = stack.enter_context(self._runtime.snapshot(fault_function))
                snapshot.keep_ready(1)
                self._snapshots[name] = snapshot
            # Those that are stopped wait for their time limit.
            self._snapshots["stopped"] = stack.enter_context(self._runtime.snapshot(self._hasty["hello"]))
            yield

    def requests(self, numbers: range, threads: int, until: float) -> None:
        """Make the requests `numbers`, by so many threads, but begin none after `until` (`time.monotonic()`)."""
        lock, waiting, done = threading.Lock(), iter(numbers), 0

        def work() -> None:
            nonlocal done
            while time.monotonic() < until:
                with lock:
                    number = next(waiting, None)
                if number is None:
                    return
                self._request(Plan.of(self._seed, number))
                with lock:
                    done += 1
                    if done % 1000 == 0:
                        self._say(f"{done} of {len(numbers)} requests, {len(self.book.wrong)} wrong")

        with ThreadPoolExecutor(threads) as pool:
            for worker in [pool.submit(work) for _ in range(threads)]:
                worker.result()

    def quiesce(self) -> dict[str, int]:
        """Wait until all that is under way has ended, and count."""
        for snapshot in self._snapshots.values():
            # What a failed restore left stays uncollected while a CRIU of that time waits for its request.
            for _ in range(2):
                with contextlib.suppress(SnapruntimeError), snapshot.restore():
                    pass
            snapshot.keep_ready(1)  # After a fault none is made ahead until that is asked for again.
            snapshot.wait_ready()
        # What killed supervisors left goes when the next one begins, what they had half-made with the next snapshot.
        stuck = self._clear_up()
        self._runtime.snapshot(self._functions["hello"], rebuild=True).close()
        # What was killed is collected in the kernel's own time: two counts that agree, at most a second apart.
        counts = count(self.home)
        for _ in range(100):
            time.sleep(0.05)
            before, counts = counts, count(self.home)
            if counts["processes"] == before["processes"] and counts["of them zombies"] == 0:
                break
        return counts | {STUCK: stuck}

    def _clear_up(self) -> int:
        """Have the next supervisor take away what killed ones left; says how many of their groups it could not.

        Others on this host are killed meanwhile, and theirs lie beside ours: those that have just come are the next
        one's to take away.
        """
        left = abandoned_groups()
        Runtime(self.home).close()
        return len(left & abandoned_groups())

    def _request(self, plan: Plan) -> None:
        self.book.opened(plan.request)
        mark = self._weather.mark()
        act = _ACTS.get(plan.fault, Soak._plain)
        try:
            with self._weather if plan.fault in WEATHER else contextlib.nullcontext():
                outcome = act(self, plan)
        except UsageError as error:
            outcome = f"refused: {error.code}"
        except SnapruntimeError as error:
            outcome = error.code
        except Exception as error:
            self._say(traceback.format_exc())
            outcome = f"traceback: {error!r}"
        wrong = "" if outcome in plan.ends(calm=self._weather.calm_since(mark)) else f"ended by {outcome}"
        what = f"sabotage: {plan.sabotage}" if plan.sabotage else plan.fault
        if wrong:
            self._say(f"request {plan.number}: {plan}: {wrong}")
        kind, _, error_name = outcome.partition(": ") if outcome.startswith("refused") else ("failed", "", outcome)
        if outcome == "answered":
            kind, error_name = "answered", ""
        self.book.closed(plan.request, Entry(plan.function, what, kind, error_name), wrong)

    # What is done to a request: each returns "answered", or the error's name.

    def _plain(self, plan: Plan) -> str:
        with self._snapshots[plan.function].restore(request_id=plan.request) as copy:
            return self._invoke(copy, plan)

    def _invoke(self, copy: Instance, plan: Plan) -> str:
        answer = copy.invoke({"number": plan.number, "do": plan.sabotage}, request_id=plan.request)
        if answer.error is not None:
            return str(answer.error["errorType"])
        if (answer.result["number"], answer.result["request"]) != (plan.number, plan.request):
            return f"another's answer: {answer.result}"
        return "answered"

    def _copy_killed(self, plan: Plan) -> str:
        with self._snapshots[plan.function].restore(request_id=plan.request) as copy, pidfd_of(copy.pid) as pidfd:
            strike = threading.Timer(plan.delay * 0.004, lambda: send(pidfd, signal.SIGKILL))
            strike.start()
            try:
                return self._invoke(copy, plan)
            finally:
                strike.join()

    def _copy_stopped(self, plan: Plan) -> str:
        with self._snapshots["stopped"].restore(request_id=plan.request) as copy, pidfd_of(copy.pid) as pidfd:
            send(pidfd, signal.SIGSTOP)
            return self._invoke(copy, plan)

    def _criu_killed(self, plan: Plan) -> str:
        spawner = spawner_of(psutil.Process())

        def strike() -> None:
            with contextlib.suppress(psutil.NoSuchProcess):
                victims = [process for process in spawner.children() if process.name() == "criu"]
                for process in victims[:1]:
                    process.kill()

        timer = threading.Timer(plan.delay * 0.03, strike)
        timer.start()
        try:
            return self._plain(plan)
        finally:
            timer.join()

    def _short_of_descriptors(self, plan: Plan) -> str:
        with self._store:
            pid = spawner_of(psutil.Process()).pid
            limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (5 + int(plan.delay * 20), limits[1]))
            try:
                return self._plain(plan)
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)

    def _bad_event(self, plan: Plan) -> str:
        with self._snapshots[plan.function].restore(request_id=plan.request) as copy:
            copy.invoke(b"{nonsense", request_id=plan.request)
        return "an event that is no JSON was taken"

    def _closed_before(self, plan: Plan) -> str:
        copy = self._snapshots[plan.function].restore(request_id=plan.request)
        copy.close()
        return self._invoke(copy, plan)

    def _closed_meanwhile(self, plan: Plan) -> str:
        with self._snapshots[plan.function].restore(request_id=plan.request) as copy:
            timer = threading.Timer(plan.delay * 0.003, copy.close)
            timer.start()
            try:
                return self._invoke(copy, plan)
            finally:
                timer.join()

    def _cold(self, plan: Plan) -> str:
        with self._runtime.cold(self._functions[plan.function]) as cold, cold.start() as instance:
            return self._invoke(instance, plan)

    def _damaged(self, plan: Plan) -> str:
        """Some byte of some file is changed, or the file cut or removed: it must be made anew, and answer."""
        dice = random.Random(plan.delay)
        with self._store, contextlib.ExitStack() as stack:
            function = self._own_function(plan)
            with self._runtime.snapshot(function) as good:
                folder = good.stored.folder
            path = dice.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
            damage(path, dice)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)  # Of another format by a flipped bit: it is kept.
            with self._runtime.snapshot(function) as snapshot:
                if snapshot.id == good.id:
                    return f"a damaged snapshot was used: {path}"
                with snapshot.restore(request_id=plan.request) as copy:
                    return self._invoke(copy, plan)

    def _disk_full(self, plan: Plan) -> str:
        """No room for a new snapshot: that is said; with room again, all is well."""
        with self._store:
            function = self._own_function(plan)
            balloon = self.home / "balloon"
            try:
                fill(balloon, spare=int(plan.delay * (4 << 20)))
                with self._runtime.snapshot(function, rebuild=True):
                    outcome = "answered"  # Another supervisor's snapshots went, and made room.
            except SnapshotError as error:
                outcome = error.code
            finally:
                balloon.unlink(missing_ok=True)
            with self._runtime.snapshot(function) as snapshot, snapshot.restore(request_id=plan.request) as copy:
                again = self._invoke(copy, plan)
            return outcome if again == "answered" else again

    def _own_function(self, plan: Plan) -> Function:
        """A function whose snapshots nobody has open: `self._store` is to be held."""
        handler = f"{self._functions[plan.function].task_root}/handler.py"
        return resolve_function(handler, name="own", timeout_s=5.0)  # Another name has snapshots of its own.

    def _supervisor_killed(self, plan: Plan) -> str:
        return self._beside(plan, lambda process: process)

    def _spawner_killed(self, plan: Plan) -> str:
        return self._beside(plan, spawner_of)

    def _beside(self, plan: Plan, victim: Callable[[psutil.Process], psutil.Process]) -> str:
        """Another supervisor on the same store, of which `victim` is killed at some moment of its life."""
        handler = f"{self._functions[plan.function].task_root}/handler.py"
        argv = ["-m", "snapruntime.bench.soak.side", str(self.home), handler, str(plan.number), plan.request]
        with subprocess.Popen(
            [sys.executable, *argv], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        ) as side:
            try:
                side.wait(0.1 + plan.delay * 0.7)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(psutil.NoSuchProcess, StopIteration):
                    victim(psutil.Process(side.pid)).kill()
                    self.kills += 1
            said, _ = side.communicate(timeout=60)
        self._check_store()
        if not said:
            return "Supervisor.Killed" if side.returncode == -signal.SIGKILL else f"exit status {side.returncode}"
        line = json.loads(said)
        if line["error"] is not None:
            return str(line["error"])
        answer = json.loads(line["payload"])
        return "answered" if answer["request"] == plan.request else f"another's answer: {answer}"

    def _check_store(self) -> None:
        """After whatever end of whatever supervisor: what has a snapshot's name is a whole snapshot."""
        store = Store(self.home)
        for slot in store.home.glob("snapshots/*/"):
            for folder in store.newest_first(slot.name):
                # One that another thread damages has its own check; one that is removed meanwhile is gone.
                with self._store, contextlib.suppress(FileNotFoundError):
                    stored = store.open(folder)
                    try:
                        stored.verify()
                    finally:
                        stored.close()


_ACTS: dict[str, Callable[[Soak, Plan], str]] = {
    "copy killed": Soak._copy_killed,
    "copy stopped": Soak._copy_stopped,
    "CRIU killed": Soak._criu_killed,
    "spawner short of descriptors": Soak._short_of_descriptors,
    "event that is no JSON": Soak._bad_event,
    "copy closed before": Soak._closed_before,
    "copy closed meanwhile": Soak._closed_meanwhile,
    "cold start": Soak._cold,
    "snapshot damaged": Soak._damaged,
    "disk full": Soak._disk_full,
    "supervisor killed": Soak._supervisor_killed,
    "spawner killed": Soak._spawner_killed,
}


def facts() -> dict[str, Any]:
    """The host that it ran on."""
    uname = os.uname()
    return {"kernel": uname.release, "machine": uname.machine, "processors": os.cpu_count()}
