"""Copies restored ahead: what waits, what is made at the hand-over, what is not handed over."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import Write, wait_until

from snapruntime import FunctionError, RestoreError, Runtime
from snapruntime.values.life import IllegalTransitionError, State
from snapruntime.workflows.ask import Ask
from snapruntime.workflows.restore import Snapshot

UNIQUE = """
    import os, random, time, uuid
    from snapruntime import register_after_restore

    hooks = []

    @register_after_restore
    def back():
        hooks.append(time.time())

    def handler(event, context):
        return {"random": random.random(), "uuid1": str(uuid.uuid1()), "hooks": hooks, "pid": os.getpid()}
"""

#: Each part of it says that it runs.
HOOKED = """
    from snapruntime import register_after_restore
    @register_after_restore
    def back(): print("hook")
    def handler(event, context):
        print("handler")
        return event
"""


def test_hooks_and_randomness_are_the_hand_overs(runtime: Runtime, write: Write) -> None:
    with runtime.snapshot(write(UNIQUE)) as snapshot:
        copies = [snapshot.park() for _ in range(3)]
        assert [copy.state for copy in copies] == [State.PARKED] * 3
        parked, answers = time.time(), []
        for copy in copies:
            with copy.resume() as instance:
                assert copy.state is instance.state is State.READY
                answers.append(instance.invoke({}).result)
    assert all(len(answer["hooks"]) == 1 and answer["hooks"][0] > parked for answer in answers)
    for name in ("random", "uuid1"):
        assert len({answer[name] for answer in answers}) == 3


def test_a_parked_copy_is_the_snapshots_until_then(runtime: Runtime, write: Write) -> None:
    """A rehearsal runs nothing of the function, and its log is empty."""
    function = write(HOOKED)
    with runtime.snapshot(function) as snapshot:
        written: list[bytes] = []
        with snapshot.park().resume(sink=written.append) as instance:
            assert b"".join(written) == b"hook\n"
            assert instance.invoke({"key": 1}).result == {"key": 1}


def test_the_time_that_it_waited_is_not_the_requests(runtime: Runtime, write: Write) -> None:
    with runtime.snapshot(write("def handler(event, context): return event")) as snapshot:
        before = time.monotonic()
        copy = snapshot.park()
        parking_ms = (time.monotonic() - before) * 1000
        with copy.resume(requested=time.monotonic()) as instance:
            answer = instance.invoke(1)
        assert answer.restore_ms is not None
        assert answer.restore_ms < parking_ms / 2
        assert answer.total_ms < parking_ms


def test_one_that_nobody_needs_is_closed(runtime: Runtime, write: Write) -> None:
    with runtime.snapshot(write("def handler(event, context): return event")) as snapshot:
        copy = snapshot.park()
        copy.close()
        assert copy.state is State.DEAD
        assert not os.path.exists(f"/proc/{copy.pid}")
        with pytest.raises(IllegalTransitionError):
            copy.resume()


def test_its_end_is_noticed(runtime: Runtime, write: Write) -> None:
    function = write("""
        import os, threading
        from snapruntime import register_before_snapshot
        @register_before_snapshot
        def start():
            threading.Thread(target=wait, daemon=True).start()
        def wait():
            while not os.path.exists("/tmp/never"):
                import time
                time.sleep(0.05)
        def handler(event, context): return event
    """)
    with runtime.snapshot(function) as snapshot:
        copy = snapshot.park()
        assert copy.alive()
        signal.pidfd_send_signal(copy.pidfd, signal.SIGKILL)
        wait_until(lambda: not copy.alive(), "the copy has ended")
        with pytest.raises(FunctionError) as caught:
            copy.resume(request_id="r")
        assert caught.value.code == "Runtime.ExitError"
        assert copy.state is State.DEAD


def test_a_changed_library_is_not_handed_over(runtime: Runtime, write: Write, code_root: Path) -> None:
    """What was mapped before is gone from the disk: code read later would be of another version."""
    library = code_root / "parked-library.bin"
    library.write_bytes(b"1" * 8192)
    library.chmod(0o644)
    function = write(
        f"""
        import mmap
        file = open({str(library)!r}, "rb")
        view = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
        def handler(event, context): return chr(view[0])
    """,
        read_only=(str(library),),
    )
    with runtime.snapshot(function) as snapshot:
        with snapshot.park().resume() as instance:
            assert instance.invoke({}).result == "1"
        copy = snapshot.park()
        library.write_bytes(b"2" * 8192)
        with pytest.raises(RestoreError, match=r"parked-library\.bin is not the file any more"):
            copy.resume()
        assert copy.state is State.DEAD


def test_one_that_does_not_come_to_life_is_an_error(runtime: Runtime, write: Write) -> None:
    function = write("""
        import os, time
        time.tzset = lambda: os._exit(3)
        def handler(event, context): return event
    """)
    with (
        runtime.snapshot(function) as snapshot,
        pytest.raises(RestoreError, match=r"did not come to life: .*exit status 3"),
    ):
        snapshot.park()


PRINTS = """
    def handler(event, context):
        print("handler")
        return event if isinstance(event, int) else len(event)
"""


def hand_over_one(snapshot: Snapshot) -> None:
    """So that it is known what hooks there are."""
    with snapshot.park().resume() as instance:
        instance.invoke(0)


def test_what_has_no_hooks_is_asked_along_with_its_hand_over(runtime: Runtime, write: Write) -> None:
    function = write(PRINTS)
    with runtime.snapshot(function) as snapshot:
        first = Ask(function, 1)
        with snapshot.park().resume(first=first) as instance:
            assert not first.sent, "nothing is known of its hooks"
            assert instance.answer(first).result == 1
        for number in (2, 3):
            ask, written, later = Ask(function, number), list[bytes](), list[bytes]()
            with snapshot.park().resume(sink=written.append, first=ask) as instance:
                assert ask.sent
                answer = instance.answer(ask, sink=later.append)
                assert answer.result == number
                assert (written, b"".join(later)) == ([], b"handler\n"), "the handler's are the invocation's"
                assert answer.logs == "handler\n"
                assert instance.invoke(number + 10).result == number + 10, "and then as always"


def test_what_has_hooks_is_asked_after_them(runtime: Runtime, write: Write) -> None:
    function = write(HOOKED)
    with runtime.snapshot(function) as snapshot:
        hand_over_one(snapshot)
        ask, written, later = Ask(function, 1), list[bytes](), list[bytes]()
        with snapshot.park().resume(sink=written.append, first=ask) as instance:
            assert not ask.sent
            assert instance.answer(ask, sink=later.append).result == 1
        assert (b"".join(written), b"".join(later)) == (b"hook\n", b"handler\n")


def test_a_hook_that_nobody_expected_fails_before_the_handler(runtime: Runtime, write: Write) -> None:
    """One that a thread of init registers in the copy, for instance: the handler is not called."""
    function = write("""
        import os
        from snapruntime import register_after_restore
        @register_after_restore
        def back():
            print("hook")
            raise OSError("no connection")
        def handler(event, context): print("called")
    """)
    with runtime.snapshot(function) as snapshot:
        snapshot._hand_overs.hooks = 0
        written: list[bytes] = []
        with pytest.raises(FunctionError, match="no connection") as caught:
            snapshot.park().resume(sink=written.append, first=Ask(function, 1))
        assert b"called" not in b"".join(written)
        assert b"".join(written).startswith(b"hook\n")
        assert caught.value.phase == "after_restore"


def test_the_time_of_hooks_that_nobody_expected_is_not_the_handlers(runtime: Runtime, write: Write) -> None:
    """It counted against the function's limit, and was billed as the hooks' and the handler's too."""
    function = replace(
        write("""
            import time
            from snapruntime import register_after_restore
            register_after_restore(time.sleep, 1.5)
            def handler(event, context): time.sleep(1)
        """),
        timeout_s=2.0,
    )
    with runtime.snapshot(function) as snapshot:
        snapshot._hand_overs.hooks = 0
        ask = Ask(function, 1)
        with snapshot.park().resume(first=ask) as instance:
            answer = instance.answer(ask)
    assert answer.error is None
    assert answer.hooks_ms is not None
    assert answer.hooks_ms >= 1500
    assert answer.duration_ms is not None
    assert 1000 <= answer.duration_ms < 2000


def test_what_hooks_are_said_to_have_taken_gives_nobody_more_than_they_did(write: Write) -> None:
    ask = Ask(function := write("def handler(event, context): pass"), 1)
    ask.begin()
    ask.hooks_took(1e6)
    assert ask.deadline <= time.monotonic() + function.timeout_s


def test_an_event_of_some_size_is_asked_after_the_hand_over(runtime: Runtime, write: Write) -> None:
    function = write(PRINTS)
    with runtime.snapshot(function) as snapshot:
        hand_over_one(snapshot)
        for size, along in ((32_766, True), (32_767, False), (6_000_000, False)):
            ask = Ask(function, "x" * size)
            with snapshot.park().resume(first=ask) as instance:
                assert bool(ask.sent) is along
                assert instance.answer(ask).result == size


def test_who_finds_a_dead_copy_asks_another(runtime: Runtime, write: Write) -> None:
    function = write(PRINTS)
    with runtime.snapshot(function) as snapshot:
        hand_over_one(snapshot)
        ask = Ask(function, 5)
        dead = snapshot.park()
        signal.pidfd_send_signal(dead.pidfd, signal.SIGKILL)
        wait_until(lambda: not dead.alive(), "the copy has ended")
        with pytest.raises(FunctionError) as caught:
            dead.resume(first=ask)
        assert caught.value.code == "Runtime.ExitError"
        with snapshot.park().resume(first=ask) as instance:
            assert instance.answer(ask).result == 5


@pytest.mark.parametrize(
    ("does", "code"),
    [("os._exit(3)", "Runtime.ExitError"), ("time.sleep(60)", "Sandbox.Timedout"), ("os.close(3)", "Runtime.Unknown")],
)
def test_what_the_handler_does_wrong_is_the_invocations(runtime: Runtime, write: Write, does: str, code: str) -> None:
    """Though it has begun before its hand-over was heard of."""
    function = write(
        f"""
        import os, time
        def handler(event, context):
            if event:
                {does}
                while True: time.sleep(0.1)
    """,
        timeout_s=1.0,
    )
    with runtime.snapshot(function) as snapshot:
        hand_over_one(snapshot)
        ask = Ask(function, 1)
        with snapshot.park().resume(first=ask) as instance:
            assert ask.sent
            answer = instance.answer(ask)
        assert answer.error is not None
        assert (answer.error["errorType"], answer.phase) == (code, "invoke")
