"""What is reserved for one function is taken from the others: how much of it may be."""

from __future__ import annotations

from dataclasses import replace

from snapruntime.mechanisms.functions.database import Tables
from snapruntime.values.function import FunctionSettings
from snapruntime.values.service_errors import InvalidParameterValueException
from snapruntime.workflows.configuration import check_settings
from snapruntime.workflows.functions import Functions
from snapruntime.workflows.revisions import settings_of


def least_unreserved(total: int) -> int:
    """As on AWS, a tenth (there: 100 of 1000) is for functions without a reservation: else none of them would run."""
    return total // 10


def check_reservation(functions: Functions, name: str, wanted: int | None, total: int) -> None:
    """Look whether so much can be reserved for a function, which need not exist; see `reserve`."""
    with functions.database.reading() as tables:
        _leave_some(tables, name, wanted, total)


def reserve(functions: Functions, name: str, wanted: int | None, total: int) -> FunctionSettings:
    """Reserve invocations at once for a function; of several who do so at once, the last finds what the others took.

    Args:
        functions: the functions' service.
        name: the function.
        wanted: how many; 0 stops it, None ends its reservation.
        total: of all functions together.

    Raises:
        ResourceNotFoundException: there is no such function.
        ValidationException: it is no number of invocations.
        InvalidParameterValueException: too few would be left for the others.
    """
    with functions.database.changing() as tables:
        settings = replace(settings_of(tables, name), reserved_concurrency=wanted)
        check_settings(settings)
        _leave_some(tables, name, wanted, total)
        tables.put_function(name, settings)
    return settings


def _leave_some(tables: Tables, name: str, wanted: int | None, total: int) -> None:
    others = sum(count for one, count in tables.reserved().items() if one != name)
    if wanted and total - others - wanted < least_unreserved(total):
        raise InvalidParameterValueException(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{least_unreserved(total)}]."
        )
