"""Which of this host's interpreters Lambda's "python3.12" is, and how Lambda writes a handler."""

from __future__ import annotations

import shutil
import sys

from snapruntime.mechanisms.interpreter import OLDEST
from snapruntime.values.service_errors import InvalidParameterValueException

#: The youngest Python that is looked for by its name.
_YOUNGEST = 20
#: Our own interpreter: what is installed for it is what `snapruntime run` gives to functions.
_OURS = f"python3.{sys.version_info.minor}"


def interpreter_of(runtime: str) -> str:
    """The interpreter for one of the API's runtimes; absolute.

    Raises:
        InvalidParameterValueException: this host has none; in AWS's words, with the runtimes that there are.
    """
    names = [f"python3.{minor}" for minor in range(OLDEST[1], _YOUNGEST)]
    found = None
    if runtime in names:
        found = sys.executable if runtime == _OURS else shutil.which(runtime)
    if found is None:
        there = [name for name in names if name == _OURS or shutil.which(name)]
        raise InvalidParameterValueException(
            f"Value {runtime} at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: "
            f"[{', '.join(there)}] or be a valid ARN",
            hint=f"Install {runtime} where `serve` runs, so that a command of this name is on PATH."
            if runtime in names
            else "",
        )
    return found


def split_handler(handler: str) -> tuple[str, str]:
    """Module and attribute, split at the last dot. Without one the module is empty, and init fails as on AWS."""
    module, _, attribute = handler.rpartition(".")
    return module, attribute
