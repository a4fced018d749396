"""Named functions: create, change, publish, delete; what a name with a qualifier stands for.

Thread-safe, and safe for several processes on one data folder: the database decides. No method here runs a function's
code or makes a snapshot: that is `snapruntime.workflows.versions`. Messages are AWS's own, as LocalStack's tests have
recorded them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

from snapruntime.mechanisms import folders
from snapruntime.mechanisms.functions.code import CodeStore
from snapruntime.mechanisms.functions.database import Database, Tables
from snapruntime.mechanisms.functions.makers import Makers
from snapruntime.values.function import (
    LATEST,
    Alias,
    Code,
    CodeSource,
    FunctionConfiguration,
    FunctionSettings,
    FunctionVersion,
    LastUpdateStatus,
    State,
    Target,
    function_arn,
    is_number,
    with_changes,
)
from snapruntime.values.reference import check_function_name
from snapruntime.values.service_errors import (
    CodeStorageExceededException,
    InvalidParameterValueException,
    ResourceConflictException,
)
from snapruntime.workflows import aliases
from snapruntime.workflows.configuration import check_configuration, check_settings
from snapruntime.workflows.revisions import check_revision, existing, new_revision, not_found, now, settings_of

CREATING = "Creating"
#: So many names and qualifiers are known again.
_KNOWN = 1000


class Functions:
    """All functions below one data folder.

    Args:
        home: the data folder; see `snapruntime.mechanisms.store.data_home`.

    Names and qualifiers are plain (`snapruntime.values.reference.parse_reference` takes ARNs apart). Every method may
    raise ResourceNotFoundException, and ServiceException where the disk refuses.

    Raises:
        HostError: the data folder cannot be used.
    """

    def __init__(self, home: Path) -> None:
        home = home.absolute()
        code, makers = home / folders.CODE, home / "functions" / "makers"
        for folder in (code.parent, code, makers):
            folders.own(folder, "what is in it is executed")
        self.home = home
        self.code = CodeStore(code)
        self.makers = Makers(makers)
        self.database = Database(code.parent / "functions.db", code)
        #: What names came to, as long as the database has not changed since.
        self._known: tuple[int, dict[tuple[str, str | None], Target]] = (-1, {})

    # What there is.

    def all(self) -> list[FunctionVersion]:
        """`$LATEST` of every function, by name."""
        with self.database.reading() as tables:
            return [existing(tables, name, LATEST) for name in tables.names()]

    def version(self, name: str, qualifier: str | None = None) -> FunctionVersion:
        """One version: `$LATEST` by default; through an alias, the version that it names first."""
        with self.database.reading() as tables:
            alias = self._alias(tables, name, qualifier)
            return self._chosen(tables, name, qualifier, alias, chance=1.0)

    def versions(self, name: str) -> list[FunctionVersion]:
        """`$LATEST`, then the published ones, oldest first."""
        with self.database.reading() as tables:
            existing(tables, name, LATEST, shown=function_arn(name))
            return tables.versions(name)

    def settings(self, name: str) -> FunctionSettings:
        with self.database.reading() as tables:
            return settings_of(tables, name)

    def reserved(self) -> dict[str, int]:
        """The functions that have invocations at once reserved for them, and how many."""
        with self.database.reading() as tables:
            return tables.reserved()

    def target(self, name: str, qualifier: str | None = None, *, chance: float | None = None) -> Target:
        """What is to answer one invocation; an alias with weights chooses. Cheap enough for each request.

        Args:
            chance: decides by weight, 0 to below 1; a random number by default.
        """
        stamp = self.database.stamp()
        if stamp != self._known[0]:
            self._known = stamp, {}
        known = self._known[1]
        if (target := known.get((name, qualifier))) is not None:
            return target
        with self.database.reading() as tables:
            alias = self._alias(tables, name, qualifier)
            version = self._chosen(tables, name, qualifier, alias, random.random() if chance is None else chance)
            target = Target(version, function_arn(name, qualifier), settings_of(tables, name))
        if alias is None or not alias.weights:  # Else the next may be another version.
            if len(known) >= _KNOWN:
                known.clear()
            known[name, qualifier] = target
        return target

    def _alias(self, tables: Tables, name: str, qualifier: str | None) -> Alias | None:
        """The alias that a qualifier names, which must exist; None where it names a version."""
        if qualifier is None or qualifier == LATEST or is_number(qualifier):
            return None
        if (alias := tables.alias(name, qualifier)) is None:
            raise not_found(function_arn(name, qualifier))
        return alias

    def _chosen(
        self, tables: Tables, name: str, qualifier: str | None, alias: Alias | None, chance: float
    ) -> FunctionVersion:
        version = alias.choose(chance) if alias is not None else qualifier or LATEST
        return existing(tables, name, version, shown=function_arn(name, qualifier))

    # What changes it.

    def create(
        self,
        name: str,
        configuration: FunctionConfiguration,
        code: CodeSource,
        *,
        settings: FunctionSettings | None = None,
    ) -> FunctionVersion:
        """A new function; returns its `$LATEST`.

        Raises:
            ResourceConflictException: it exists.
            InvalidParameterValueException, ValidationException: name, configuration or code cannot be used.
            UsageError: the local folder cannot be used.
        """
        check_function_name(name)
        settings = settings or FunctionSettings()
        check_configuration(configuration)
        check_settings(settings)
        with self.database.reading() as tables:
            self._check_new(tables, name)  # Before the code is unpacked, which takes time.
        with self._adding(code) as stored, self.database.changing() as tables:
            self._check_new(tables, name)
            tables.put_function(name, settings)
            version = FunctionVersion(
                name=name,
                version=LATEST,
                configuration=configuration,
                code=stored,
                state=State.ACTIVE,
                state_reason="",
                state_reason_code="",
                last_update=LastUpdateStatus.SUCCESSFUL,
                last_modified=now(),
                revision_id=new_revision(),
                snapshot=None,
            )
            tables.put_version(version)
        return version

    def _check_new(self, tables: Tables, name: str) -> None:
        if tables.settings(name) is not None:
            raise ResourceConflictException(f"Function already exist: {name}")

    @contextlib.contextmanager
    def _adding(self, source: CodeSource) -> Iterator[Code]:
        """Code that is stored, and stays until the end of the block."""
        try:
            with self.code.adding(source) as code:
                yield code
        except OSError as error:
            raise CodeStorageExceededException(
                f"The function's code could not be written to {self.home}: {error.strerror or error}",
                hint=folders.disk_hint(error),
            ) from error

    def update_code(
        self, name: str, code: CodeSource, *, revision_id: str | None = None, dry_run: bool = False
    ) -> FunctionVersion:
        """Other code for `$LATEST`.

        Args:
            dry_run: only look whether it can be used.

        Raises:
            PreconditionFailedException: `revision_id` is given and not the latest.
            InvalidParameterValueException, UsageError: the code cannot be used.
        """
        with self.database.reading() as tables:
            check_revision(existing(tables, name, LATEST, shown=function_arn(name)).revision_id, revision_id)
        with self._adding(code) as stored:
            return self._update(name, revision_id, lambda latest: replace(latest, code=stored), dry_run=dry_run)

    def update_configuration(self, name: str, *, revision_id: str | None = None, **changes: object) -> FunctionVersion:
        """Another configuration for `$LATEST`.

        Args:
            changes: fields of FunctionConfiguration; what is None stays as it is.

        Raises:
            PreconditionFailedException: `revision_id` is given and not the latest.
            InvalidParameterValueException, ValidationException: a value cannot be used.
        """

        def change(latest: FunctionVersion) -> FunctionVersion:
            return replace(latest, configuration=with_changes(latest.configuration, **changes))

        return self._update(name, revision_id, change)

    def update(
        self, name: str, configuration: FunctionConfiguration, code: CodeSource, *, revision_id: str | None = None
    ) -> FunctionVersion:
        """Other code and configuration for `$LATEST` at once; nothing changes where both are what they were.

        Raises:
            PreconditionFailedException: `revision_id` is given and not the latest.
            InvalidParameterValueException, ValidationException, UsageError: they cannot be used.
        """
        check_configuration(configuration)
        with self._adding(code) as stored:
            return self._update(name, revision_id, lambda old: replace(old, configuration=configuration, code=stored))

    def _update(
        self,
        name: str,
        revision_id: str | None,
        change: Callable[[FunctionVersion], FunctionVersion],
        *,
        dry_run: bool = False,
    ) -> FunctionVersion:
        with self.database.changing() as tables:
            latest = existing(tables, name, LATEST, shown=function_arn(name))
            check_revision(latest.revision_id, revision_id)
            updated = change(latest)
            check_configuration(updated.configuration)
            if updated != latest:
                updated = replace(updated, last_modified=now(), revision_id=new_revision())
            if not dry_run:
                tables.put_version(updated)
        return updated

    def change_settings(self, name: str, **changes: object) -> FunctionSettings:
        """Other settings for the function as a whole.

        Args:
            changes: fields of FunctionSettings.

        Raises:
            ValidationException: a value cannot be used.
        """
        with self.database.changing() as tables:
            settings = replace(settings_of(tables, name), **changes)  # type: ignore[arg-type]
            check_settings(settings)
            tables.put_function(name, settings)
        return settings

    def publish(
        self,
        name: str,
        *,
        description: str | None = None,
        code_sha256: str | None = None,
        revision_id: str | None = None,
    ) -> FunctionVersion:
        """Freeze `$LATEST` as a version; the last published one where neither code nor configuration changed since.

        The version is Pending where it is to have a snapshot: `Versions.prepare` makes it, and sets the state. One that
        Failed is Pending again, since what failed need not be its code.

        Raises:
            PreconditionFailedException: `revision_id` is given and not the latest.
            InvalidParameterValueException: `code_sha256` is given and not that of `$LATEST`.
        """
        with self.database.changing() as tables:
            latest = existing(tables, name, LATEST, shown=function_arn(name))
            check_revision(latest.revision_id, revision_id)
            if code_sha256 is not None and code_sha256 != latest.code.sha256:
                raise InvalidParameterValueException(
                    f"CodeSHA256 ({code_sha256}) is different from current CodeSHA256 in $LATEST "
                    f"({latest.code.sha256}). Please try again with the CodeSHA256 in $LATEST."
                )
            version, source = tables.last_published(name) or (None, None)
            if version is None or (version.code, source) != (latest.code, latest.configuration):
                version = self._freeze(tables, latest, description)
            elif version.state is State.FAILED:
                self.put_pending(tables, version)
                version = existing(tables, name, version.version)
        return version

    def _freeze(self, tables: Tables, latest: FunctionVersion, description: str | None) -> FunctionVersion:
        configuration = latest.configuration
        if description is not None:
            configuration = replace(configuration, description=description)
            check_configuration(configuration)
        version = replace(
            latest,
            version=str(tables.next_number(latest.name)),
            configuration=configuration,
            last_modified=now(),
            revision_id=new_revision(),
        )
        tables.put_version(version, source=latest.configuration)
        if version.has_snapshot:
            self.put_pending(tables, version)
        return existing(tables, version.name, version.version)

    def put_pending(self, tables: Tables, version: FunctionVersion) -> None:
        tables.change_state(
            version.name,
            version.version,
            State.PENDING,
            reason="The function is being created.",
            reason_code=CREATING,
            snapshot=None,
            revision_id=new_revision(),
            maker=self.makers.me(),
        )

    def delete(self, name: str, version: str | None = None) -> None:
        """Delete a version, or the function with all its versions and aliases. `gc` frees the space.

        A version that does not exist is no error, as on AWS.

        Raises:
            ResourceConflictException: an alias names the version.
            InvalidParameterValueException: `$LATEST` cannot be deleted without the function, nor an alias this way.
        """
        if version == LATEST:
            raise InvalidParameterValueException("$LATEST version cannot be deleted without deleting the function.")
        if version is not None and not is_number(version):
            raise InvalidParameterValueException("Deletion of aliases is not currently supported.")
        with self.database.changing() as tables:
            existing(tables, name, LATEST, shown=function_arn(name))
            if version is None:
                tables.delete_function(name)
                return
            naming = [alias.name for alias in tables.aliases(name) if version in alias.versions]
            if naming:
                raise ResourceConflictException(
                    f"Unable to delete version because the following aliases reference it: [{', '.join(naming)}]"
                )
            tables.delete_version(name, version)

    # Aliases: see `snapruntime.workflows.aliases`.

    def alias(self, name: str, alias: str) -> Alias:
        with self.database.reading() as tables:
            return aliases.existing_alias(tables, name, alias)

    def aliases(self, name: str, version: str | None = None) -> list[Alias]:
        """By name; only those that name `version`, where that is given."""
        with self.database.reading() as tables:
            existing(tables, name, LATEST, shown=function_arn(name))
            return [alias for alias in tables.aliases(name) if version is None or version in alias.versions]

    def create_alias(
        self, name: str, alias: str, version: str, *, description: str = "", weights: Mapping[str, float] | None = None
    ) -> Alias:
        """Raises ResourceConflictException where it exists; InvalidParameterValueException, ValidationException."""
        with self.database.changing() as tables:
            return aliases.create(tables, Alias(name, alias, version, description, dict(weights or {}), new_revision()))

    def update_alias(
        self,
        name: str,
        alias: str,
        *,
        version: str | None = None,
        description: str | None = None,
        weights: Mapping[str, float] | None = None,
        revision_id: str | None = None,
    ) -> Alias:
        """Change what is given; `weights={}` ends the sharing.

        Raises:
            PreconditionFailedException: `revision_id` is given and not the latest.
        """
        with self.database.changing() as tables:
            return aliases.update(tables, name, alias, version, description, weights, revision_id)

    def delete_alias(self, name: str, alias: str) -> None:
        """Delete it; nothing happens where there is no such alias, as on AWS."""
        with self.database.changing() as tables:
            existing(tables, name, LATEST, shown=function_arn(name))
            tables.delete_alias(name, alias)

    def close(self) -> None:
        self.database.close()
        self.makers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
