"""rich's console as all commands use it."""

from __future__ import annotations

from typing import NoReturn

import rich.console


class Console(rich.console.Console):
    """One that leaves it to `cli` what a closed pipe is: rich's own makes an exit code of 1 of it, the function's."""

    def on_broken_pipe(self) -> NoReturn:
        """Called by rich while it handles the error."""
        raise BrokenPipeError
