"""Named functions: what is configured, their versions, their aliases. Names, limits and states are the Lambda API's.

The source of all of them is botocore's service model (lambda/2015-03-31); where the developer guide is stricter for
functions of our kind (zip package, no capacity provider), its limits stand here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from snapruntime.values.model import NOBODY, Function, Network

#: The version that is being edited; the others are immutable.
LATEST = "$LATEST"

#: Placeholders of the right form, in every ARN of ours.
REGION, ACCOUNT = "us-east-1", "123456789012"

#: Limits of a configuration: seconds, MB, bytes of all names and values of the environment, characters.
MAX_TIMEOUT_S = 900
MEMORY_MB = (128, 10240)
ENVIRONMENT_LIMIT = 4096
DESCRIPTION_LIMIT = 256
HANDLER_LIMIT = 128
#: The longest name of a function, and of an alias, characters.
NAME_LIMIT = 64
ALIAS_LIMIT = 128

#: Code as it is sent and as it is unpacked, bytes (developer guide, "Lambda quotas").
ZIP_LIMIT = 50 << 20
UNZIPPED_LIMIT = 250 << 20
#: A local folder may be as large as a container image.
FOLDER_LIMIT = 10 << 30


class State(StrEnum):
    """Whether a version can be invoked; the part of the API's states that a function without VPC can be in."""

    #: Its snapshot is being made.
    PENDING = "Pending"
    #: It can be invoked.
    ACTIVE = "Active"
    #: Its snapshot was lost to a change of the host and could not be made anew; the next invocation tries again.
    INACTIVE = "Inactive"
    #: Its snapshot could not be made. Publishing once more tries again.
    FAILED = "Failed"


#: Where a version's state may lead. Of two who make the same snapshot, one may fail where the other does not: what is
#: there counts, whoever is told last.
TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.PENDING: frozenset({State.ACTIVE, State.FAILED}),
        State.ACTIVE: frozenset({State.ACTIVE, State.INACTIVE}),
        State.INACTIVE: frozenset({State.ACTIVE, State.INACTIVE}),
        # Pending by publishing once more.
        State.FAILED: frozenset({State.ACTIVE, State.PENDING}),
    }
)


class LastUpdateStatus(StrEnum):
    """How the last change of code or configuration went."""

    SUCCESSFUL = "Successful"
    FAILED = "Failed"
    IN_PROGRESS = "InProgress"


class ApplyOn(StrEnum):
    """Which versions are to have a snapshot."""

    PUBLISHED_VERSIONS = "PublishedVersions"
    NONE = "None"


class OptimizationStatus(StrEnum):
    """Whether a version is answered by copies of a snapshot."""

    ON = "On"
    OFF = "Off"


#: Who answers: a copy for each invocation, or one copy for one invocation after the other, as on AWS.
ReusePolicy = Literal["fresh", "reuse"]
LogFormat = Literal["Text", "JSON"]
#: Code as it comes: a zip file's bytes, or a local folder that is copied.
CodeSource = bytes | Path


@dataclass(frozen=True, slots=True)
class FunctionConfiguration:
    """What a version does not change: all of it is frozen when a version is published.

    Attributes:
        module: the module with the handler, as Lambda writes it ("handler", "package/module"); empty where `attribute`
            holds a handler without a dot, which fails at init as it does on AWS.
        attribute: the handler's name in it; None stands for `lambda_handler`, else `handler`.
        python: the interpreter; absolute.
        runtime: what the API calls it: "python3.11".
        environment: the function's environment.
        timeout_s: seconds per invocation.
        memory_mb: MB.
        snap_start: which versions have a snapshot.
        description: for people.
        role: an ARN that is given back as it came; no rights follow from it.
        log_format: of what the function logs, and of our own records about it.
        application_log_level: the least level that is kept of what the function logs, with JSON; None for all.
        system_log_level: the same for our own records.
        dead_letter: what DeadLetterConfig's TargetArn says; it is given back as it came. Events that could not be
            delivered go to the function's file in the data folder (`snapruntime.workflows.events`).
        read_only: further host paths that the function sees.
        writable: further host paths that it may change.
        uid: the user it runs as.
        gid: its group.
        network: what it sees of the network.
        hooks: the ready-made hooks that it takes.
    """

    module: str
    attribute: str | None
    python: str
    runtime: str
    environment: Mapping[str, str] = field(default_factory=dict)
    timeout_s: int = 3
    memory_mb: int = 128
    snap_start: ApplyOn = ApplyOn.NONE
    description: str = ""
    role: str = f"arn:aws:iam::{ACCOUNT}:role/snapruntime"
    log_format: LogFormat = "Text"
    application_log_level: str | None = None
    system_log_level: str | None = None
    dead_letter: str | None = None
    read_only: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    uid: int = NOBODY
    gid: int = NOBODY
    network: Network = "host"
    hooks: tuple[str, ...] = ()

    @property
    def handler(self) -> str:
        """Lambda's handler string."""
        return f"{self.module}.{self.attribute or 'lambda_handler'}" if self.module else self.attribute or ""


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a version.

    Attributes:
        folder: where it is unpacked; absolute, immutable, shared by all versions with the same files.
        sha256: what the API calls CodeSha256: base64, of the zip file as it was sent, or of a folder's files.
        size: bytes: of the zip file, or of the folder's files.
    """

    folder: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class FunctionVersion:
    """One version of a function: `$LATEST`, or an immutable one.

    Attributes:
        name: the function.
        version: "$LATEST", or a number from "1".
        configuration: frozen with the version.
        code: likewise.
        state: whether it can be invoked.
        state_reason: why not, for people; empty where it can.
        state_reason_code: the same as the API's StateReasonCode; empty where it can be invoked.
        last_update: how the last change went.
        last_modified: UTC, "2026-11-24T11:23:58.123+0000", as the API has it.
        revision_id: a UUID that changes with every change of the version.
        snapshot: the identifier of its snapshot in the store; None where it has none (yet).
    """

    name: str
    version: str
    configuration: FunctionConfiguration
    code: Code
    state: State
    state_reason: str
    state_reason_code: str
    last_update: LastUpdateStatus
    last_modified: str
    revision_id: str
    snapshot: str | None

    @property
    def published(self) -> bool:
        return self.version != LATEST

    @property
    def has_snapshot(self) -> bool:
        """Whether it is to be answered by copies of a snapshot; where not, each of its processes starts cold."""
        return self.published and self.configuration.snap_start is ApplyOn.PUBLISHED_VERSIONS

    @property
    def optimization(self) -> OptimizationStatus:
        """On where there is a snapshot, or is to be: only published versions have one."""
        return OptimizationStatus.ON if self.has_snapshot else OptimizationStatus.OFF

    @property
    def arn(self) -> str:
        """With the version, as ListVersionsByFunction has it."""
        return function_arn(self.name, self.version)

    def _logging(self) -> dict[str, str]:
        """What tells the worker how to log: it is part of what its snapshot was made with."""
        configuration = self.configuration
        if configuration.log_format == "Text":
            return {}
        level = configuration.application_log_level
        return {"AWS_LAMBDA_LOG_FORMAT": "JSON"} | ({"AWS_LAMBDA_LOG_LEVEL": level} if level else {})

    def function(self) -> Function:
        """The function as the runtime takes it."""
        configuration = self.configuration
        return Function(
            name=self.name,
            module=configuration.module,
            attribute=configuration.attribute,
            task_root=self.code.folder,
            python=configuration.python,
            environment={**configuration.environment, **self._logging()},
            timeout_s=float(configuration.timeout_s),
            memory_mb=configuration.memory_mb,
            read_only=configuration.read_only,
            writable=configuration.writable,
            uid=configuration.uid,
            gid=configuration.gid,
            network=configuration.network,
            hooks=configuration.hooks,
            version=self.version,
        )


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for a version, or for two of them by weight.

    Attributes:
        function: the function.
        name: the alias.
        version: the version that it names.
        description: for people.
        weights: at most one other version, with its share of the invocations: 0 to 1. `version` gets the rest.
        revision_id: a UUID that changes with every change.
    """

    function: str
    name: str
    version: str
    description: str
    weights: Mapping[str, float]
    revision_id: str

    @property
    def arn(self) -> str:
        return function_arn(self.function, self.name)

    @property
    def versions(self) -> tuple[str, ...]:
        """All that it may lead to."""
        return (self.version, *self.weights)

    def choose(self, chance: float) -> str:
        """The version for one invocation.

        Args:
            chance: a random number from 0 to below 1.
        """
        for version, weight in self.weights.items():
            if chance < weight:
                return version
            chance -= weight
        return self.version


@dataclass(frozen=True, slots=True)
class FunctionSettings:
    """What belongs to a function as a whole and is not part of its versions; it may be changed at any time.

    Attributes:
        reserved_concurrency: the most invocations at once, kept free for it; None for a share of what is common.
        reuse: whether a copy answers one invocation, or one after the other.
        maximum_retries: how often a failed event is tried again (0 to 2).
        maximum_event_age_s: how long an event is tried for, seconds (60 to 21600).
        tags: for people and programs; given back as they came.
        events_modified: when the two settings of events were last configured, seconds since 1970; None where they are
            the defaults that nobody asked for.
    """

    reserved_concurrency: int | None = None
    reuse: ReusePolicy = "fresh"
    maximum_retries: int = 2
    maximum_event_age_s: int = 21600
    tags: Mapping[str, str] = field(default_factory=dict)
    events_modified: float | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a name with a qualifier came to.

    Attributes:
        version: the version that is to answer.
        invoked_arn: the ARN that the invocation named, which the context shows: through an alias it ends in the alias.
        settings: the function's.
    """

    version: FunctionVersion
    invoked_arn: str
    settings: FunctionSettings


@dataclass(frozen=True, slots=True)
class Removed:
    """Something that `gc` removed, or would remove.

    Attributes:
        kind: "snapshot", "code", or "unfinished": its maker died.
        path: where it was.
        size: bytes on the disk.
        reason: why it is of no use; empty for what nothing refers to.
    """

    kind: str
    path: str
    size: int
    reason: str = ""


def is_number(version: str) -> bool:
    """Whether it has the form of a published version."""
    return version.isascii() and version.isdigit()


def function_arn(name: str, qualifier: str | None = None) -> str:
    """The ARN of a function, a version or an alias."""
    return ":".join(filter(None, ["arn:aws:lambda", REGION, ACCOUNT, "function", name, qualifier]))


def with_changes(configuration: FunctionConfiguration, **changes: object) -> FunctionConfiguration:
    """`configuration` with those of `changes` that are not None: what a request leaves out stays as it was."""
    given = {name: value for name, value in changes.items() if value is not None}
    return dataclasses.replace(configuration, **given)  # type: ignore[arg-type]
