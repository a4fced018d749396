"""One check of one function: the static pass, cold starts, a snapshot, copies, and what comparing them shows."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from snapruntime.mechanisms.channel import LogSink
from snapruntime.values.errors import FunctionError, RestoreError, SnapruntimeError, SnapshotError
from snapruntime.values.findings import SEVERITIES, Finding, Place, Report
from snapruntime.values.life import State
from snapruntime.values.model import Function
from snapruntime.workflows.ask import encode_event
from snapruntime.workflows.check import observe, state
from snapruntime.workflows.check.answers import printable
from snapruntime.workflows.check.differ import Duplicate, duplicates
from snapruntime.workflows.check.observe import Run
from snapruntime.workflows.check.places import shown, suppress
from snapruntime.workflows.check.rules import RULES
from snapruntime.workflows.check.static import check_file
from snapruntime.workflows.instance import Instance
from snapruntime.workflows.restore import Snapshot
from snapruntime.workflows.runtime import Runtime

#: Rules about values, where what was seen in the processes overrules a suspicion of the static pass.
_ABOUT_VALUES = frozenset({"SR001", "SR002", "SR003", "SR004", "SR012"})
#: Rules that say the same of a connection, each as far as it knows it: one finding is enough.
_ABOUT_CONNECTIONS = frozenset({"SR005", "SR013", "SR015"})
_SEEN = _ABOUT_VALUES | _ABOUT_CONNECTIONS
#: After-restore hooks longer than this are worth a word, ms; AWS allows 10 s for the whole restore.
_SLOW_HOOKS_MS = 1000
#: So much memory written to by the first call is worth a word, KB.
_MUCH_DIRTY_KB = 32 << 10
_SECRET = "AWS_SECRET_ACCESS_KEY"
#: Further copies that must agree before a value counts as duplicated; more where there are few possible values: of a
#: thousand coins that are tossed, one is the same in all copies once in thousands of checks.
_CONFIRM, _CONFIRM_CHANCE = 1, 20


def check(
    runtime: Runtime,
    function: Function,
    event: Any = None,
    *,
    runs: int = 3,
    environment: Mapping[str, str] | None = None,
    keep_seeds: bool = False,
    say: Callable[[str], None] = lambda _: None,
    sink: LogSink | None = None,
) -> Report:
    """Find what is not snapshot-safe in `function`.

    Args:
        event: given to each copy and each cold start; {} by default.
        runs: how many copies, and how many cold starts; at least 2.
        environment: variables that each copy gets at its restore; cold starts have them from the beginning.
        keep_seeds: as for `Snapshot.restore`.
        say: called with what is being done.
        sink: receives what init writes.

    Raises:
        FunctionError: its init, or a before-snapshot hook, failed: there is nothing to check.
        UsageError: the event is no JSON, or the interpreter or a path is of no use.
        HostError: this host cannot take snapshots.
    """
    body = encode_event({} if event is None else event)
    if "PYTHONHASHSEED" not in function.environment:
        # Else the order of sets, another at each cold start and one in all copies, would look like a finding.
        function = replace(function, environment={**function.environment, "PYTHONHASHSEED": "0"})
    one = _Check(runtime, function, body, max(2, runs), environment or {}, keep_seeds, say, sink)
    try:
        one.run()
    except (SnapshotError, RestoreError) as error:
        one.found.append(_no_snapshot(error))
    return one.report()


class _Check:
    def __init__(
        self,
        runtime: Runtime,
        function: Function,
        event: bytes,
        runs: int,
        environment: Mapping[str, str],
        keep_seeds: bool,
        say: Callable[[str], None],
        sink: LogSink | None,
    ) -> None:
        self._runtime, self._function, self._event, self._runs = runtime, function, event, runs
        self._environment, self._keep_seeds = environment, keep_seeds
        self._say, self._sink = say, sink
        self._files: list[str] = []
        self._look = True
        self._answered = 0.0  # When the first copy had, time.time().
        self._safe: set[Place] = set()
        self._kept: set[Place] = set()
        self.found: list[Finding] = []
        self.figures: dict[str, Any] = {"runs": runs}

    def run(self) -> None:
        function = self._function
        self._say("Cold starts")
        started = replace(function, environment={**function.environment, **self._environment})
        colds: list[Run] = []
        with self._runtime.cold(started) as cold:
            first = time.time()
            for number in range(self._runs):
                if number == self._runs - 1:
                    _await_second_after(first)
                colds.append(self._observe(cold.start))
        self._files = next((run.scan["files"] for run in colds if run.scan), [])
        self._say("Making a snapshot")
        with self._runtime.snapshot(function, sink=self._sink) as snapshot:
            self.figures |= {"init_ms": snapshot.init_ms, "mapped": snapshot.mapped}
            self.figures["before_hooks_ms"] = snapshot.stored.manifest["before_hooks_ms"]
            self._say("Copies")
            try:
                self._measure(snapshot)
                copies = [self._copy(snapshot)]
                self._answered = time.time()
                copies += [self._copy(snapshot) for _ in range(self._runs - 1)]
            except FunctionError as error:
                self._hook_failed(error)
                return
            self._compare(copies, colds, snapshot)

    def _measure(self, snapshot: Snapshot) -> None:
        """A copy that nothing else is asked of: what its phases cost."""
        with self._restored(snapshot) as copy:
            self.figures |= {"restore_ms": copy.restore_ms, "hooks_ms": copy.hooks_ms}
            before = observe.memory_of(copy.pid)
            self.figures |= {"resident_kb": before.resident, "dirty_kb": before.dirty}
            for name in ("first_call", "second_call"):
                after = self._call(copy, name, before)
                if after is None:
                    break
                before = after
        if (copy.hooks_ms or 0) > _SLOW_HOOKS_MS:
            self.found.append(
                Finding(RULES["SR023"], f"the after-restore hooks took {copy.hooks_ms:.0f} ms", found_by="dynamic")
            )
        dirtied = self.figures.get("first_call_dirtied_kb", 0)
        if snapshot.mapped and dirtied > _MUCH_DIRTY_KB:
            message = f"the first call wrote to {dirtied >> 10} MB of memory that copies would else share"
            self.found.append(Finding(RULES["SR024"], message, found_by="dynamic"))

    def _restored(self, snapshot: Snapshot) -> Instance:
        return snapshot.restore(environment=self._environment, keep_seeds=self._keep_seeds)

    def _copy(self, snapshot: Snapshot, *, scan: bool = True) -> Run:
        """Raises FunctionError (an after-restore hook failed) or RestoreError."""
        return self._observe(lambda: self._restored(snapshot), scan=scan)

    def _observe(self, start: Callable[[], Instance], *, scan: bool = True) -> Run:
        run = observe.observe(start, self._event, look=self._look, scan=scan)
        if scan:
            self._look = run.scan is not None  # Once it was in vain, the wait for the next would be too.
        return run

    def _call(self, copy: Instance, name: str, before: observe.Memory) -> observe.Memory | None:
        answer = copy.invoke(self._event)
        self.figures[f"{name}_ms"] = answer.duration_ms
        if copy.state is State.DEAD:
            return None  # At its time limit, or it ended itself.
        try:
            after = observe.memory_of(copy.pid)
        except OSError:
            return None  # It has ended since.
        self.figures[f"{name}_dirtied_kb"] = max(0, after.dirty - before.dirty)
        return after

    def _compare(self, copies: list[Run], colds: list[Run], snapshot: Snapshot) -> None:
        root = self._function.task_root
        scans = [[run.scan for run in runs if run.scan is not None] for runs in (copies, colds)]
        for runs, those in ((copies, "copies"), (colds, "cold starts")):
            missing = "objects" if any(run.scan is None for run in runs) else "requests to others"
            if any(run.scan is None or not run.told for run in runs):
                message = f"the {missing} of {those} were not compared: no proper answer came to the question for them"
                self.found.append(Finding(RULES["SR091"], message, those, found_by="dynamic"))
        if _SECRET in self._environment:  # Each copy was given its own.
            for scan in (scan for some in scans for scan in some):
                scan["items"] = [item for item in scan["items"] if item["kind"] != "environment"]
        digests: dict[str, tuple[str, Place | None]] = {}
        if all(len(some) > 1 for some in scans):
            judgement = state.judge(scans[0], scans[1], root)
            self.found += judgement.findings
            self._safe, self._kept, digests = judgement.safe, judgement.kept, judgement.digests
            self.figures["scan_ms"] = scans[0][0]["ms"]
            self.figures["scan_truncated"] = any(scan["truncated"] for some in scans for scan in some)
        self._failures(copies, colds)
        self._some_failed(copies, colds)
        for duplicate in self._confirmed(duplicates(copies, colds), copies, colds, snapshot):
            self.found.append(_duplicated(duplicate, digests) or self._drawn(duplicate, colds[0].scan))

    def _drawn(self, duplicate: Duplicate, scan: dict[str, Any] | None) -> Finding:
        """A value that no object holds: drawn, most likely, from a generator that init made or used."""
        message = (
            f"{duplicate.path} is {_recognisable(duplicate)} in all copies. No object that was looked at holds it."
        )
        generators = [finding for finding in self.found if finding.rule.id == "SR001"]
        made = [finding for finding in self.found if finding.rule.id == "SR003" and finding.found_by == "state"]
        if made:
            places = [one.path for one in generators + made]
            others = " or another" if len(places) > 4 else ""
            said = f"{message} It may come from {', '.join(places[:4])}{others}, which init made."
            advice, place, hook = RULES["SR020"].mend, (generators + made)[0].place, ""
        elif generators:
            said = f"{message} It may be drawn from {generators[0].path}, which init made."
            advice = "Make that generator in the handler, or reseed it in an after-restore hook."
            place, hook = generators[0].place, generators[0].hook
        else:
            place, said = None, f"{message} It may be drawn from a generator that init used."
            advice, hook = RULES["SR020"].mend, ""
            if scan is not None and scan["sqlite"] and "sqlite3" not in self._function.hooks:
                advice, hook = f"{advice} SQLite's random() and randomblob() draw from one.", "sqlite3"
        return Finding(RULES["SR020"], said, duplicate.path, place, "differential", special=hook, advice=advice)

    def _confirmed(
        self, found: list[Duplicate], copies: list[Run], colds: list[Run], snapshot: Snapshot
    ) -> list[Duplicate]:
        """Those that further copies repeat too."""
        for asked in range(_CONFIRM_CHANCE):
            if not found or (asked >= _CONFIRM and not any(one.can_be_chance for one in found)):
                break
            if not asked:
                _await_second_after(self._answered)  # Else a clock that the handler reads may show all copies the same.
            # Its answer counts. Objects are compared already, and a scan costs as much as all the rest of such a copy.
            copies.append(self._copy(snapshot, scan=False))
            found = duplicates(copies, colds)
        return found

    def _failures(self, copies: Sequence[Run], colds: Sequence[Run]) -> None:
        """What goes wrong in copies only; and what goes wrong everywhere, which keeps us from seeing more."""
        errors = [run.invocation.error for run in copies]
        kinds = [(run.invocation.error or {}).get("errorType") for run in colds]
        error = errors[0] or {}
        message = re.sub(r"^RequestId: \S+ Error: ", "", str(error.get("errorMessage")))
        said = f"{error.get('errorType')}: {message}"
        if None not in kinds and all(errors) and error.get("errorType") in kinds:
            self.figures["handler_error"] = printable(said)
            return
        dead = [one for run in copies for one in run.dead]
        answers = ({run.invocation.payload for run in copies}, {run.invocation.payload for run in colds})
        other = len(answers[0]) == len(answers[1]) == 1 and answers[0] != answers[1]
        if dead and (any(errors) or other):
            at = next((one["place"] for one in dead if one["place"]), None)
            where = Place(shown(at[0], self._function.task_root), int(at[1])) if at else None
            self.found.append(Finding(RULES["SR022"], dead[0]["error"], place=where, found_by="dynamic"))
        elif all(errors) and error.get("errorType") not in kinds:
            place = self._place_in(error)
            self.found.append(Finding(RULES["SR021"], said, place=place, found_by="differential"))

    def _some_failed(self, copies: Sequence[Run], colds: Sequence[Run]) -> None:
        """Where the function failed in some processes and not in all: they were not compared with the others."""
        if all(run.invocation.error for run in copies):
            return  # That is told already.
        for runs, those in ((copies, "copies"), (colds, "cold starts")):
            errors = [run.invocation.error for run in runs if run.invocation.error]
            if errors:
                said = f"{errors[0].get('errorType')}: {errors[0].get('errorMessage')}"
                message = f"{len(errors)} of {len(runs)} {those} failed, and were not compared ({said})"
                self.found.append(Finding(RULES["SR091"], message, f"answers of {those}", found_by="differential"))

    def _place_in(self, document: Any) -> Place | None:
        """The innermost line of the function's own code in the trace of an error document."""
        root = os.path.join(os.path.realpath(self._function.task_root), "")
        lines = re.findall(r'File "([^"\0]+)", line ([0-9]{1,7})', "".join(document.get("stackTrace", [])))
        own = [(file, int(line)) for file, line in lines if os.path.realpath(file).startswith(root)]
        own = [(file, line) for file, line in own if "-packages/" not in file]
        return Place(shown(os.path.realpath(own[-1][0]), root), own[-1][1]) if own else None

    def _hook_failed(self, error: FunctionError) -> None:
        message = f"an after-restore hook failed: {error.code}: {error.message}"
        self.found.append(Finding(RULES["SR021"], message, place=self._place_in(error.document), found_by="dynamic"))

    def report(self) -> Report:
        root = self._function.task_root
        module = self._function.module.replace(".", "/")
        files = self._files or [os.path.join(os.path.realpath(root), f"{module}.py")]
        suspected: list[Finding] = []
        for file in sorted(file for file in files if file.endswith(".py")):  # No library in C.
            try:
                suspected += check_file(file, root)
            except SyntaxError:
                continue  # Of another version of Python: it runs where it runs.
        known = {(finding.rule.id, finding.place) for finding in self.found}
        told = _ABOUT_CONNECTIONS | {"SR025"}
        connections = {finding.place for finding in self.found if finding.rule.id in told}
        new = [
            finding
            for finding in suspected
            if not (finding.rule.id in _SEEN and finding.place in self._safe - self._kept_for(finding))
            and (finding.rule.id, finding.place) not in known
            and not (finding.rule.id == "SR016" and self._keep_seeds)
            and not (finding.rule.id in _ABOUT_CONNECTIONS and finding.place in connections)
        ]
        # Of a thread the process tells what it runs, the source where it is started; of a seed only the source tells.
        placed = {(finding.rule.id, finding.path) for finding in new if finding.rule.id in ("SR008", "SR016")}
        seen = [finding for finding in self.found if (finding.rule.id, finding.path) not in placed]
        found = [_shown(finding) for finding in suppress([*seen, *new], root)]
        return Report(self._function.handler, root, ordered(found), self.figures)

    def _kept_for(self, finding: Finding) -> set[Place]:
        """Where being the same at each cold start clears nothing: today is another day than the copies' will be."""
        return self._kept if finding.rule.id == "SR004" else set()


def _shown(finding: Finding) -> Finding:
    """A finding whose words, which may be the function's, can be shown."""
    place = finding.place and replace(finding.place, file=printable(finding.place.file))
    return replace(
        finding, message=printable(finding.message), path=printable(finding.path).replace("\n", "\\n"), place=place
    )


def _await_second_after(moment: float) -> None:
    """Until clocks that show whole seconds show another than at `moment`: else what they show would look constant."""
    time.sleep(min(1.0, max(0.0, 1.0 - (time.time() - moment))))


def ordered(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Worst first, then by place; of several about the same line and rule, the first."""
    chosen: dict[Any, Finding] = {}
    for finding in findings:
        about = finding.place or finding.path or finding.message
        chosen.setdefault((finding.rule.id, about, finding.path if finding.rule.id == "SR020" else ""), finding)
    return tuple(
        sorted(
            chosen.values(),
            key=lambda one: (
                one.suppressed is not None,
                SEVERITIES.index(one.rule.severity),
                one.place or Place("~", 0),
                one.rule.id,
            ),
        )
    )


def _duplicated(duplicate: Duplicate, digests: dict[str, tuple[str, Place | None]]) -> Finding | None:
    """A value that an object of init's holds, or a time; None for one of which neither is so."""
    path, place = digests.get(state.digest(duplicate.value), ("", None))
    if not path and not duplicate.is_time:
        return None
    origin = f" It is {path}." if path else ""
    rule = RULES["SR004" if duplicate.is_time else "SR020"]
    message = f"{duplicate.path} is {_recognisable(duplicate)} in all copies.{origin}"
    return Finding(rule, message, duplicate.path, place, "differential")


def _recognisable(duplicate: Duplicate) -> str:
    """Enough of a value to recognise it by, and not enough to use it: it may be a secret."""
    value = str(duplicate.value)
    return value if duplicate.can_be_chance or duplicate.is_time else f"{value[:6]}…"


def _no_snapshot(error: SnapruntimeError) -> Finding:
    place = re.search(r"opened at (\S+?):([0-9]{1,7})", error.message)
    where = Place(place[1], int(place[2])) if place else None
    return Finding(RULES["SR025"], error.message, place=where, found_by="dynamic", advice=error.hint)
