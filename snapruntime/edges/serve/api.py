"""Which call a request makes: the routes of the Lambda API, each with its limit and what answers it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote

from snapruntime.edges.serve.exchange import Call, Reply
from snapruntime.values.service_errors import ServiceError


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of the API.

    Attributes:
        name: as the service model has it.
        method: the HTTP method.
        template: the path, with {NAME} for each part that names something.
        answer: gives the reply; None where it has told it (`Call.tell`). Blocks; is called in a thread.
        limit: how large the body may be, bytes, by the headers of the request.
        too_large: the error for a larger body, by the limit.
        threads: those that answer it. "function" for what waits for one, so that the control plane ("control") must not
            wait behind it; "page" for what must not wait behind either.
    """

    name: str
    method: str
    template: str
    answer: Callable[[Call], Reply | None]
    limit: Callable[[Mapping[str, str]], int]
    too_large: Callable[[int], ServiceError]
    threads: Literal["function", "control", "page"] = "control"


class Routes:
    """Finds the operation for a method and path."""

    def __init__(self, operations: list[Operation]) -> None:
        self._routes: dict[str, list[tuple[re.Pattern[str], Operation]]] = {}
        for operation in operations:
            pattern = re.sub(
                r"\{(\w+)\}", r"(?P<\1>[^/]+)", re.escape(operation.template).replace(r"\{", "{").replace(r"\}", "}")
            )
            # Older clients list functions with a slash at the end.
            self._routes.setdefault(operation.method, []).append((re.compile(f"{pattern}/?"), operation))

    def find(self, method: str, raw_path: str) -> tuple[Operation, dict[str, str]] | None:
        """The operation and the named parts of the path, decoded: clients encode the colons of an ARN."""
        for pattern, operation in self._routes.get(method, ()):
            if found := pattern.fullmatch(raw_path):
                return operation, {name: unquote(part) for name, part in found.groupdict().items()}
        return None
