"""The control plane: functions, versions and aliases, from the API's JSON to the functions' service and back.

What would change how a function runs and is not to be had here is refused by name, not passed over.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from snapruntime.edges.serve import shapes
from snapruntime.edges.serve.exchange import Call, Reply, reply_json
from snapruntime.edges.serve.fields import Fields, missing, not_in
from snapruntime.edges.serve.naming import latest_of, page, reference_of, unqualified, version_key
from snapruntime.edges.serve.runtimes import interpreter_of, split_handler
from snapruntime.values.function import (
    ApplyOn,
    CodeSource,
    FunctionConfiguration,
    FunctionSettings,
    FunctionVersion,
)
from snapruntime.values.service_errors import InvalidParameterValueException, ValidationException
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.tags import check_tags

#: The largest request body of the control plane, bytes: what AWS's error text says for CreateFunction.
CONTROL_LIMIT = 70167211

#: In place of an S3 bucket: the key is then a folder of this machine. Only those that the server was told of.
LOCAL_BUCKET = "local-folder"

_NOT_HERE = (
    "VpcConfig",
    "KMSKeyArn",
    "Layers",
    "FileSystemConfigs",
    "ImageConfig",
    "CodeSigningConfigArn",
    "TenancyConfig",
    "CapacityProviderConfig",
    "DurableConfig",
    "AcceleratorConfig",
    "PublishTo",
)
_ROLE = re.compile(r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+")
_CODE_NOT_HERE = ("ImageUri", "SourceKMSKeyArn", "S3ObjectVersion", "PublishTo")


class ControlCalls:
    """The calls about functions, versions and aliases. May be used from several threads.

    Args:
        functions: the functions' service.
        prepare: has a Pending version's snapshot made, in the background.
        code_folders: the folders below which code may lie that is named, not sent.
    """

    def __init__(
        self,
        functions: Functions,
        prepare: Callable[[FunctionVersion], None],
        code_folders: Sequence[Path],
    ) -> None:
        self._functions = functions
        self._prepare = prepare
        self._code_folders = [folder.resolve() for folder in code_folders]

    def create_function(self, call: Call) -> Reply:
        request = Fields.parse(call.body)
        name = unqualified(call, request.required_text("FunctionName"))
        request.refuse(_NOT_HERE)
        request.required_text("Role")
        configuration = FunctionConfiguration(
            module="",
            attribute=None,
            python="",
            runtime="",
            role=_role(request) or "",
            snap_start=_snap_start(request) or ApplyOn.NONE,
        )
        _check_fixed(request)  # An image has neither of these.
        for member in ("Runtime", "Handler"):
            if request.text(member) is None:
                raise InvalidParameterValueException(
                    f"{member} is mandatory for functions created with deployment packages."
                )
        tags = request.strings("Tags") or {}
        check_tags(tags)
        given = {field: value for field, value in self._changes(request).items() if value is not None}
        code = request.fields("Code")
        if code is None:
            raise missing("Code")
        version = self._functions.create(
            name,
            dataclasses.replace(configuration, **given),
            self._code(code),
            settings=FunctionSettings(tags=tags),
        )
        if request.flag("Publish"):
            version = self._publish(name)
        return reply_json(shapes.configuration(version), 201)

    def list_functions(self, call: Call) -> Reply:
        wanted = call.query.get("FunctionVersion")
        if wanted not in (None, "ALL"):
            raise not_in("FunctionVersion", wanted, ["ALL"])
        functions = self._functions.all()
        if wanted == "ALL":
            every = [one for latest in functions for one in self._functions.versions(latest.name)]
            found = [shapes.listed(one, one.version) for one in every]
        else:
            found = [shapes.listed(one) for one in functions]
        return page(call, found, "Functions", version_key)

    def get_function(self, call: Call) -> Reply:
        reference = reference_of(call)
        version = self._functions.version(reference.name, reference.qualifier)
        settings = self._functions.settings(reference.name)
        answer: dict[str, Any] = {
            "Configuration": shapes.configuration(version, reference.qualifier),
            "Code": {"RepositoryType": "local", "Location": f"file://{version.code.folder}"},
        }
        if settings.tags:
            answer["Tags"] = dict(settings.tags)
        if settings.reserved_concurrency is not None:
            answer["Concurrency"] = {"ReservedConcurrentExecutions": settings.reserved_concurrency}
        return reply_json(answer)

    def get_function_configuration(self, call: Call) -> Reply:
        reference = reference_of(call)
        version = self._functions.version(reference.name, reference.qualifier)
        return reply_json(shapes.configuration(version, reference.qualifier))

    def update_function_configuration(self, call: Call) -> Reply:
        name = latest_of(call)
        request = Fields.parse(call.body)
        request.refuse(_NOT_HERE)
        changes = self._changes(request) | {"role": _role(request), "snap_start": _snap_start(request)}
        version = self._functions.update_configuration(name, revision_id=request.text("RevisionId"), **changes)
        return reply_json(shapes.configuration(version))

    def update_function_code(self, call: Call) -> Reply:
        name = latest_of(call)
        request = Fields.parse(call.body)
        version = self._functions.update_code(
            name,
            self._code(request),
            revision_id=request.text("RevisionId"),
            dry_run=bool(request.flag("DryRun")),
        )
        if request.flag("Publish") and not request.flag("DryRun"):
            published = self._publish(name)
            return reply_json(shapes.configuration(published, published.version))
        return reply_json(shapes.configuration(version))

    def delete_function(self, call: Call) -> Reply:
        reference = reference_of(call)
        self._functions.delete(reference.name, reference.qualifier)
        return Reply(204, content_type="")

    def publish_version(self, call: Call) -> Reply:
        name = latest_of(call)
        request = Fields.parse(call.body)
        request.refuse(["PublishTo"])
        version = self._publish(
            name,
            description=request.text("Description"),
            code_sha256=request.text("CodeSha256") or None,
            revision_id=request.text("RevisionId"),
        )
        return reply_json(shapes.configuration(version, version.version), 201)

    def list_versions_by_function(self, call: Call) -> Reply:
        found = [shapes.listed(one, one.version) for one in self._functions.versions(reference_of(call).name)]
        return page(call, found, "Versions", version_key)

    def create_alias(self, call: Call) -> Reply:
        request = Fields.parse(call.body)
        alias = self._functions.create_alias(
            latest_of(call),
            request.required_text("Name"),
            request.required_text("FunctionVersion"),
            description=request.text("Description") or "",
            weights=_weights(request),
        )
        return reply_json(shapes.alias(alias), 201)

    def get_alias(self, call: Call) -> Reply:
        return reply_json(shapes.alias(self._functions.alias(latest_of(call), call.path["Name"])))

    def update_alias(self, call: Call) -> Reply:
        request = Fields.parse(call.body)
        alias = self._functions.update_alias(
            latest_of(call),
            call.path["Name"],
            version=request.text("FunctionVersion"),
            description=request.text("Description"),
            weights=_weights(request),
            revision_id=request.text("RevisionId"),
        )
        return reply_json(shapes.alias(alias))

    def delete_alias(self, call: Call) -> Reply:
        self._functions.delete_alias(latest_of(call), call.path["Name"])
        return Reply(204, content_type="")

    def list_aliases(self, call: Call) -> Reply:
        found = self._functions.aliases(latest_of(call), call.query.get("FunctionVersion"))
        return page(call, [shapes.alias(one) for one in found], "Aliases", lambda shape: str(shape["Name"]))

    def _publish(self, name: str, **options: str | None) -> FunctionVersion:
        version = self._functions.publish(name, **options)
        self._prepare(version)
        return version

    def _changes(self, request: Fields) -> dict[str, Any]:
        """What a request says of the configuration, as fields of FunctionConfiguration."""
        changes: dict[str, Any] = {
            "description": request.text("Description"),
            "timeout_s": request.integer("Timeout"),
            "memory_mb": request.integer("MemorySize"),
        }
        handler, runtime = request.text("Handler"), request.text("Runtime")
        if handler is not None:
            changes["module"], changes["attribute"] = split_handler(handler)
        if runtime is not None:
            changes |= {"runtime": runtime, "python": interpreter_of(runtime)}
        if (environment := request.fields("Environment")) is not None:
            changes["environment"] = environment.strings("Variables") or {}
        if (dead_letter := request.fields("DeadLetterConfig")) is not None:
            changes["dead_letter"] = dead_letter.text("TargetArn")
        if (logging := request.fields("LoggingConfig")) is not None:
            changes |= {
                "log_format": logging.text("LogFormat"),
                "application_log_level": logging.text("ApplicationLogLevel"),
                "system_log_level": logging.text("SystemLogLevel"),
            }
        _check_fixed(request)
        return changes

    def _code(self, code: Fields) -> CodeSource:
        """The code of a request: a zip file, or the folder that it names."""
        code.refuse(_CODE_NOT_HERE)
        if (blob := code.blob("ZipFile")) is not None:
            return blob
        bucket, key = code.text("S3Bucket"), code.text("S3Key")
        if bucket is None:
            raise InvalidParameterValueException("Please provide a source for function code.")
        if bucket != LOCAL_BUCKET:
            raise InvalidParameterValueException(
                "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket "
                "does not exist",
                hint=f"There is no S3 here: send a ZipFile, or name a folder by S3Bucket={LOCAL_BUCKET}, S3Key=/PATH.",
            )
        folder = Path("/", key or "").resolve()
        if not any(folder.is_relative_to(allowed) for allowed in self._code_folders):
            raise InvalidParameterValueException(
                f"The code in {folder} is not to be used.",
                hint="Whoever starts the server says which folders are, with --code-folder.",
            )
        return folder


def _check_fixed(request: Fields) -> None:
    """Refuse other values where we have one only."""
    if request.text("PackageType") not in (None, "Zip"):
        raise InvalidParameterValueException("Container images are not supported by snapruntime: PackageType Zip.")
    architectures = request.texts("Architectures")
    if architectures not in (None, (), (shapes.ARCHITECTURE,)):
        raise InvalidParameterValueException(
            f"This host is {shapes.ARCHITECTURE}, not {', '.join(architectures or ())}."
        )
    storage = request.fields("EphemeralStorage")
    if storage is not None and storage.integer("Size") != shapes.EPHEMERAL_MB:
        raise InvalidParameterValueException(f"EphemeralStorage is {shapes.EPHEMERAL_MB} MB here.")
    tracing = request.fields("TracingConfig")
    if tracing is not None and tracing.text("Mode") != "PassThrough":
        raise InvalidParameterValueException("Tracing is not supported by snapruntime: TracingConfig Mode PassThrough.")


def _role(request: Fields) -> str | None:
    """An ARN of the right form; it gives no rights here."""
    role = request.text("Role")
    if role is not None and not _ROLE.fullmatch(role):
        raise ValidationException("role", role, f"Member must satisfy regular expression pattern: {_ROLE.pattern}")
    return role


def _snap_start(request: Fields) -> ApplyOn | None:
    given = request.fields("SnapStart")
    if given is None:
        return None
    return given.choice("ApplyOn", ApplyOn, within="snapStart.") or ApplyOn.NONE


def _weights(request: Fields) -> dict[str, float] | None:
    """An alias's second version; None where nothing is said of it, {} where it is to have none."""
    routing = request.fields("RoutingConfig")
    return None if routing is None else routing.weights("AdditionalVersionWeights") or {}
