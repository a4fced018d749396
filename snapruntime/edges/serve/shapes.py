"""Functions, versions and aliases as the API's JSON (botocore's service model has the shapes)."""

from __future__ import annotations

import platform
from typing import Any

from snapruntime.values.function import Alias, FunctionVersion, function_arn

ARCHITECTURE = {"x86_64": "x86_64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
#: MB of /tmp under SnapStart.
EPHEMERAL_MB = 512


def configuration(version: FunctionVersion, qualifier: str | None = None) -> dict[str, Any]:
    """A FunctionConfiguration.

    Args:
        qualifier: what the caller named, which its ARN ends in.
    """
    shape = listed(version, qualifier)
    shape |= {"State": version.state, "LastUpdateStatus": version.last_update}
    if version.state_reason:
        shape |= {"StateReason": version.state_reason, "StateReasonCode": version.state_reason_code}
    return shape


def listed(version: FunctionVersion, qualifier: str | None = None) -> dict[str, Any]:
    """A FunctionConfiguration as lists have it: without the states."""
    settings = version.configuration
    logging = {"LogFormat": settings.log_format, "LogGroup": f"/aws/lambda/{version.name}"}
    if settings.log_format == "JSON":
        logging |= {
            "ApplicationLogLevel": settings.application_log_level or "INFO",
            "SystemLogLevel": settings.system_log_level or "INFO",
        }
    shape: dict[str, Any] = {
        "FunctionName": version.name,
        "FunctionArn": function_arn(version.name, qualifier),
        "Runtime": settings.runtime,
        "Role": settings.role,
        "Handler": settings.handler,
        "CodeSize": version.code.size,
        "Description": settings.description,
        "Timeout": settings.timeout_s,
        "MemorySize": settings.memory_mb,
        "LastModified": version.last_modified,
        "CodeSha256": version.code.sha256,
        "Version": version.version,
        "TracingConfig": {"Mode": "PassThrough"},
        "RevisionId": version.revision_id,
        "PackageType": "Zip",
        "Architectures": [ARCHITECTURE],
        "EphemeralStorage": {"Size": EPHEMERAL_MB},
        "SnapStart": {"ApplyOn": settings.snap_start, "OptimizationStatus": version.optimization},
        "LoggingConfig": logging,
    }
    if settings.environment:
        shape["Environment"] = {"Variables": dict(settings.environment)}
    if settings.dead_letter:
        shape["DeadLetterConfig"] = {"TargetArn": settings.dead_letter}
    return shape


def alias(one: Alias) -> dict[str, Any]:
    """An AliasConfiguration."""
    shape: dict[str, Any] = {
        "AliasArn": one.arn,
        "Name": one.name,
        "FunctionVersion": one.version,
        "Description": one.description,
        "RevisionId": one.revision_id,
    }
    if one.weights:
        shape["RoutingConfig"] = {"AdditionalVersionWeights": dict(one.weights)}
    return shape
