"""The context object a handler is called with."""

from __future__ import annotations

import json
import os
import sys
import time

from . import wire
from .handler import Fault


class _Shown:
    """Prints as on Lambda: Name([field=value,…])."""

    __slots__: tuple[str, ...] = ()

    def __repr__(self) -> str:
        names = [name for name in self.__slots__ or vars(self) if not name.startswith("_")]
        return f"{type(self).__name__}([{','.join(f'{name}={getattr(self, name)}' for name in names)}])"


class _Fields(_Shown):
    """Attributes by name, each None where the source has none."""

    __slots__: tuple[str, ...] = ()

    def __init__(self, source: wire.Json) -> None:
        for name in self.__slots__:
            setattr(self, name, source.get(name))


class CognitoIdentity(_Fields):
    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(_Fields):
    __slots__ = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")  # noqa: RUF023


class ClientContext(_Fields):
    __slots__ = ("custom", "env", "client")  # noqa: RUF023
    client: wire.Json


class LambdaContext(_Shown):
    def __init__(self, invocation: wire.Header) -> None:
        env = os.environ.get  # read at each invocation, as on Lambda: a restore may have changed it
        self.aws_request_id: str = invocation["request_id"]
        self.log_group_name = env("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = env("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = env("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = env("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn: str | None = invocation.get("invoked_function_arn")
        client = _parse(invocation.get("client_context"), "Client Context")
        self.client_context = None if client is None else ClientContext(client)
        if self.client_context and self.client_context.client is not None:
            self.client_context.client = Client(self.client_context.client)
        ids = _parse(invocation.get("cognito_identity"), "Cognito Identity")
        names = {"cognito_identity_id": "cognitoIdentityId", "cognito_identity_pool_id": "cognitoIdentityPoolId"}
        self.identity = CognitoIdentity({} if ids is None else {name: ids.get(key) for name, key in names.items()})
        self.tenant_id: str | None = invocation.get("tenant_id")
        self._epoch_deadline_time_in_ms: int = invocation["deadline_ms"]

    def get_remaining_time_in_millis(self) -> int:
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def log(self, msg: object) -> None:
        sys.stdout.write(str(msg))
        sys.stdout.flush()


def _parse(text: str | None, what: str) -> wire.Json:
    try:
        return json.loads(text) if text else None
    except Exception as e:
        raise Fault("Runtime.LambdaContextUnmarshalError", f"Unable to parse {what} JSON: {e}") from e
