"""The states of a copy and what leads from one to the next. Who holds a copy's state: `snapruntime.workflows.life`."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where in its life a copy, or the fresh process of a cold start, is."""

    #: Its sandbox, channel and CRIU are being made, or wait for a request.
    PREPARING = "preparing"
    #: CRIU brings it back.
    RESTORING = "restoring"
    #: It is back, and waits to be told for whom: nothing of ours has run in it since the snapshot.
    PARKED = "parked"
    #: It has been told: what must not repeat is made anew, and its after-restore hooks run.
    RESUMING = "resuming"
    #: It waits for an event.
    READY = "ready"
    #: It has an event that it has not answered yet.
    BUSY = "busy"
    #: It has been closed while it had an event; it gets no other.
    DRAINING = "draining"
    #: Its process has ended or been killed, or never came to be.
    DEAD = "dead"


class Event(StrEnum):
    """What happens to a copy."""

    #: It is to be restored, for a request or ahead of one.
    REQUESTED = "requested"
    #: The process of a cold start has initialised.
    INITIALISED = "initialised"
    #: CRIU has restored it.
    RESTORED = "restored"
    #: It was taken for a request.
    HANDED_OVER = "handed over"
    #: Its after-restore hooks have run.
    RESUMED = "resumed"
    #: It is given an event.
    INVOKED = "invoked"
    #: It answered, be it by a result or by an error of the handler's.
    ANSWERED = "answered"
    #: It could not be brought to life, ended, broke its channel, or was killed at its time limit.
    FAILED = "failed"
    #: Its owner does not need it any more.
    CLOSED = "closed"


#: What may happen in each state, and where it leads. What is not here is a mistake of ours.
TRANSITIONS: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.PREPARING: {
            Event.REQUESTED: State.RESTORING,
            Event.INITIALISED: State.READY,
            Event.FAILED: State.DEAD,
            Event.CLOSED: State.DEAD,
        },
        State.RESTORING: {Event.RESTORED: State.PARKED, Event.FAILED: State.DEAD},
        State.PARKED: {Event.HANDED_OVER: State.RESUMING, Event.FAILED: State.DEAD, Event.CLOSED: State.DEAD},
        State.RESUMING: {Event.RESUMED: State.READY, Event.FAILED: State.DEAD},
        State.READY: {Event.INVOKED: State.BUSY, Event.CLOSED: State.DEAD},
        State.BUSY: {Event.ANSWERED: State.READY, Event.FAILED: State.DEAD, Event.CLOSED: State.DRAINING},
        State.DRAINING: {Event.ANSWERED: State.DEAD, Event.FAILED: State.DEAD, Event.CLOSED: State.DRAINING},
        State.DEAD: {Event.CLOSED: State.DEAD},
    }
)


class IllegalTransitionError(Exception):
    """Something happened to a copy that cannot happen in its state.

    Attributes:
        state: the state.
        event: what happened.
    """

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a copy that is {state} cannot be {event}")
        self.state = state
        self.event = event
