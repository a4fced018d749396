"""Function URLs: made, changed, found. Messages are AWS's own, as LocalStack's tests have recorded them."""

from __future__ import annotations

import dataclasses
import secrets
import string
from datetime import UTC, datetime

from snapruntime.mechanisms.functions.database import Tables
from snapruntime.mechanisms.functions.urls import Urls
from snapruntime.values.function import LATEST, function_arn
from snapruntime.values.function_url import AuthType, Cors, FunctionUrl, InvokeMode
from snapruntime.values.service_errors import ResourceConflictException, ResourceNotFoundException
from snapruntime.workflows.functions import Functions

_LETTERS = string.ascii_lowercase + string.digits
_LENGTH = 32


class FunctionUrlService:
    """The URLs of all functions. Thread-safe. Every method may raise ServiceException where the disk refuses."""

    def __init__(self, functions: Functions) -> None:
        self._database = functions.database

    def find(self, id: str) -> FunctionUrl | None:
        """The URL with that ID, if there is one. Cheap enough for each request."""
        with self._database.reading() as tables:
            return Urls(tables.connection).by_id(id)

    def get(self, function: str, alias: str | None) -> FunctionUrl:
        """Raises ResourceNotFoundException."""
        with self._database.reading() as tables:
            return _existing(tables, function, alias)

    def all(self, function: str) -> list[FunctionUrl]:
        """The function's own, then those of its aliases by name. Raises ResourceNotFoundException."""
        with self._database.reading() as tables:
            _check_function(tables, function, None)
            return Urls(tables.connection).all(function)

    def create(
        self, function: str, alias: str | None, *, auth: AuthType, invoke_mode: InvokeMode, cors: Cors | None
    ) -> FunctionUrl:
        """A new URL, that nobody can guess.

        Raises:
            ResourceNotFoundException: there is no such function or alias.
            ResourceConflictException: it has a URL.
        """
        id = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
        url = FunctionUrl(id, function, alias, auth, invoke_mode, cors, created=_now(), modified=_now())
        with self._database.changing() as tables:
            _check_function(tables, function, alias)
            if Urls(tables.connection).of(function, alias) is not None:
                raise ResourceConflictException(
                    f"Failed to create function url config for [functionArn = {function_arn(function, alias)}]. "
                    "Error message:  FunctionUrlConfig exists for this Lambda function"
                )
            Urls(tables.connection).put(url)
        return url

    def update(
        self,
        function: str,
        alias: str | None,
        *,
        auth: AuthType | None,
        invoke_mode: InvokeMode | None,
        cors: Cors | None,
    ) -> FunctionUrl:
        """Change what is given. Raises ResourceNotFoundException."""
        changes = {"auth": auth, "invoke_mode": invoke_mode, "cors": cors, "modified": _now()}
        given = {name: value for name, value in changes.items() if value is not None}
        with self._database.changing() as tables:
            url = dataclasses.replace(_existing(tables, function, alias), **given)  # type: ignore[arg-type]
            Urls(tables.connection).put(url)
        return url

    def delete(self, function: str, alias: str | None) -> None:
        """Raises ResourceNotFoundException."""
        with self._database.changing() as tables:
            Urls(tables.connection).delete(_existing(tables, function, alias))


def _existing(tables: Tables, function: str, alias: str | None) -> FunctionUrl:
    url = Urls(tables.connection).of(function, alias)
    if url is None:
        raise ResourceNotFoundException("The resource you requested does not exist.")
    return url


def _check_function(tables: Tables, function: str, alias: str | None) -> None:
    if tables.version(function, LATEST) is None or (alias is not None and tables.alias(function, alias) is None):
        raise ResourceNotFoundException("Function does not exist")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
