"""The states of a copy: what leads from which to which, who changes them, and what a copy shows of them."""

from __future__ import annotations

import ast
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import Write, assert_nothing_left, census

import snapruntime
from snapruntime import FunctionError, Runtime, UsageError
from snapruntime.values.life import TRANSITIONS, Event, IllegalTransitionError, State
from snapruntime.workflows.life import Life

#: How to come to each state.
WAYS = {
    State.PREPARING: [],
    State.RESTORING: [Event.REQUESTED],
    State.PARKED: [Event.REQUESTED, Event.RESTORED],
    State.RESUMING: [Event.REQUESTED, Event.RESTORED, Event.HANDED_OVER],
    State.READY: [Event.REQUESTED, Event.RESTORED, Event.HANDED_OVER, Event.RESUMED],
    State.BUSY: [Event.INITIALISED, Event.INVOKED],
    State.DRAINING: [Event.INITIALISED, Event.INVOKED, Event.CLOSED],
    State.DEAD: [Event.CLOSED],
}


def life_in(state: State) -> Life:
    life = Life()
    for event in WAYS[state]:
        life.on(event)
    assert life.state is state
    return life


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_event_in_every_state(state: State, event: Event) -> None:
    life = life_in(state)
    if (target := TRANSITIONS[state].get(event)) is not None:
        assert life.on(event) is life.state is target
    else:
        with pytest.raises(IllegalTransitionError, match=f"{state} cannot be {event}"):
            life.on(event)
        assert life.state is state, "what may not be changes nothing"


def test_every_life_ends() -> None:
    """From every state there is a way to the end, and none back from there."""
    ends = {State.DEAD}
    while more := {state for state, ways in TRANSITIONS.items() if set(ways.values()) & ends} - ends:
        ends |= more
    assert ends == set(State)
    assert set(TRANSITIONS[State.DEAD].values()) == {State.DEAD}


def test_who_comes_while_it_is_busy_waits_and_nobody_for_ever() -> None:
    life = life_in(State.BUSY)
    with pytest.raises(IllegalTransitionError, match="busy cannot be invoked"):
        life.on(Event.INVOKED, patience=0.01)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(life.on, Event.INVOKED, patience=10)
        life.on(Event.ANSWERED)
        assert waiting.result(10) is State.BUSY
        refused = pool.submit(life.on, Event.INVOKED, patience=10)
        life.on(Event.CLOSED)
        with pytest.raises(IllegalTransitionError):
            refused.result(10)
    assert not life.wait_for(State.DEAD, 0.01)
    life.on(Event.ANSWERED)
    assert life.wait_for(State.DEAD, 0.01)


def test_one_event_at_a_time_whoever_comes() -> None:
    life, inside, most = life_in(State.READY), 0, 0

    def turn(_: int) -> None:
        nonlocal inside, most
        life.on(Event.INVOKED, patience=10)
        inside += 1
        most = max(most, inside)
        inside -= 1
        life.on(Event.ANSWERED)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(turn, range(400)))
    assert most == 1


def test_only_one_class_changes_the_state_of_a_copy() -> None:
    """The table is used by `Life`, and by nothing else. (Versions of functions have a table of their own.)"""
    package = Path(snapruntime.__file__).parent
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        and node.module == "snapruntime.values.life"
        and "TRANSITIONS" in [alias.name for alias in node.names]
    }
    assert users == {"workflows/life.py"}


def test_a_copy_shows_its_state(runtime: Runtime, write: Write) -> None:
    function = write("""
        def handler(event, context):
            print("busy", flush=True)
            if event:
                raise ValueError(event)
    """)
    seen: list[State] = []
    with runtime.snapshot(function) as snapshot:
        copy = snapshot.restore()
        with copy:
            assert copy.state is State.READY
            copy.invoke({}, sink=lambda _: seen.append(copy.state))
            assert copy.state is State.READY
            assert copy.invoke("no").error is not None
            assert copy.state is State.READY, "a handler's error is an answer"
        assert str(copy.state) == "dead"
        copy.close()
    assert set(seen) == {State.BUSY}
    with runtime.cold(function) as cold, cold.start() as instance:
        assert instance.state is State.READY


def test_a_copy_that_is_closed_while_it_answers(runtime: Runtime, write: Write) -> None:
    """Whoever waits for its answer learns of it at once; who waits for a turn is refused; it is taken away once."""
    function = write(
        "import time\ndef handler(event, context):\n    print('in', flush=True)\n    time.sleep(60)", timeout_s=60
    )
    with runtime.snapshot(function) as snapshot, ThreadPoolExecutor(4) as pool:
        copy = snapshot.restore()
        begun = threading.Event()
        first = pool.submit(copy.invoke, {}, sink=lambda _: begun.set())
        assert begun.wait(10)
        second = pool.submit(copy.invoke, {})
        closing = [pool.submit(copy.close) for _ in range(2)]
        error = first.result(10).error
        assert error is not None
        assert error["errorType"] == "Runtime.ExitError"
        with pytest.raises(UsageError, match=r"copy is (draining|dead)"):
            second.result(10)
        for one in closing:
            one.result(10)
        assert copy.state is State.DEAD


def test_a_sink_that_raises_ends_the_copy(runtime: Runtime, write: Write) -> None:
    """What the process is at then, nobody knows: its answer must not be taken for the next one's."""
    function = write("def handler(event, context): print('x', flush=True); return event")

    def sink(_: bytes) -> None:
        raise LookupError("the caller's own")

    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        with pytest.raises(LookupError):
            copy.invoke(1, sink=sink)
        assert copy.state is State.DEAD
        with pytest.raises(UsageError, match="is dead"):
            copy.invoke(2)


def test_a_sink_that_never_returns_is_waited_for_so_long(
    runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    function = write("def handler(event, context): print('x', flush=True)")
    monkeypatch.setattr("snapruntime.workflows.instance.REQUEST_DEADLINE_S", 0.1)
    begun, released = threading.Event(), threading.Event()

    def sink(_: bytes) -> None:
        begun.set()
        released.wait(20)

    with runtime.snapshot(function) as snapshot, ThreadPoolExecutor(1) as pool:
        copy = snapshot.restore()
        answer = pool.submit(copy.invoke, {}, sink=sink)
        assert begun.wait(10)
        with pytest.raises(UsageError, match="who waits for its answer does not come back"):
            copy.close()
        assert str(copy.state) == "draining"
        released.set()
        answer.result(10)
        copy.close()
        assert str(copy.state) == "dead"


def test_a_copy_whose_hook_fails_is_dead(runtime: Runtime, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    lives: list[Life] = []
    make = Life.__init__

    def kept(self: Life) -> None:
        make(self)
        lives.append(self)

    monkeypatch.setattr(Life, "__init__", kept)
    function = write("""
        from snapruntime import register_after_restore
        @register_after_restore
        def back(): raise ValueError("no")
        def handler(event, context): pass
    """)
    with runtime.snapshot(function) as snapshot:
        snapshot.keep_ready(1)
        snapshot.wait_ready()
        assert [life.state for life in lives] == [State.PREPARING]
        with pytest.raises(FunctionError):
            snapshot.restore()
        snapshot.wait_ready()
        assert [life.state for life in lives] == [State.DEAD, State.PREPARING]
    assert [life.state for life in lives] == [State.DEAD, State.DEAD], "one that nobody needed ends with the snapshot"


def test_what_a_closed_runtime_leaves_open_is_closed_with_it(criu_home: Path, write: Write) -> None:
    before = census([criu_home])
    function = write("def handler(event, context): return 1")
    runtime = Runtime(criu_home)
    snapshot = runtime.snapshot(function)
    snapshot.keep_ready(1)
    cold = runtime.cold(function)
    copies = [snapshot.restore(), snapshot.restore(), cold.start()]
    assert copies[0].invoke({}).result == 1
    runtime.close()
    assert_nothing_left(before, [criu_home])
    for copy in copies:
        with pytest.raises(UsageError, match="The runtime of this copy has been closed") as caught:
            copy.invoke({})
        assert "Keep the Runtime open" in caught.value.hint
        copy.close()
    snapshot.close()
    cold.close()


def test_a_runtime_is_closed_while_copies_answer(criu_home: Path, write: Write) -> None:
    before = census([criu_home])
    function = write("import time\ndef handler(event, context): print('in'); time.sleep(60)", timeout_s=60)
    busy = threading.Event()
    with Runtime(criu_home) as runtime, ThreadPoolExecutor(1) as pool:
        copy = runtime.snapshot(function).restore()
        answer = pool.submit(copy.invoke, {}, sink=lambda _: busy.set())
        assert busy.wait(10)
        runtime.close()
        error = answer.result(10).error
    assert error is not None
    assert error["errorType"] == "Runtime.ExitError"
    assert_nothing_left(before, [criu_home])
