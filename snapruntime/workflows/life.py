"""Who holds the state of a copy: one object per copy, the only one to change it."""

from __future__ import annotations

import threading

from snapruntime.values.life import TRANSITIONS, Event, IllegalTransitionError, State


class Life:
    """The state of one copy. Safe for use by several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._state = State.PREPARING

    @property
    def state(self) -> State:
        """The state now."""
        return self._state

    def on(self, event: Event, *, patience: float = 0.0) -> State:
        """Let `event` happen, and return the state that it led to.

        Args:
            patience: how long to wait, in seconds, for a copy that is busy to have answered.

        Raises:
            IllegalTransitionError: that cannot happen in the state which the copy is in.
        """
        with self._changed:
            if event not in TRANSITIONS[self._state]:
                self._changed.wait_for(lambda: self._state is not State.BUSY, patience)
            if event not in TRANSITIONS[self._state]:
                raise IllegalTransitionError(self._state, event)
            self._state = TRANSITIONS[self._state][event]
            self._changed.notify_all()
            return self._state

    def wait_for(self, state: State, seconds: float) -> bool:
        """Wait until the copy is in `state`; False where it is not within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._state is state, seconds)
