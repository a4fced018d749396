"""What can be seen of the host of functions from outside, in Prometheus's terms."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from snapruntime.values.answer import Answer

_BUCKETS_S = (0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 900)

#: The error types that are told apart: the platform's own. A function's are its own affair, and without number, also
#: those that it calls like ours.
_KNOWN = frozenset(
    (
        *("Function.ResponseSizeTooLarge", "Sandbox.Timedout"),
        *("Runtime.AfterRestoreError", "Runtime.BeforeSnapshotError", "Runtime.BuiltInModuleConflict"),
        *("Runtime.ExitError", "Runtime.HandlerNotFound", "Runtime.ImportModuleError"),
        *("Runtime.LambdaContextUnmarshalError", "Runtime.MalformedHandlerName", "Runtime.MarshalError"),
        *("Runtime.OutOfMemory", "Runtime.Unknown", "Runtime.UnmarshalError", "Runtime.UserCodeSyntaxError"),
    )
)


class Metrics:
    """The counters of one host, in a registry of their own.

    Attributes:
        registry: all of them.
        failures: invocations that got no answer of the function's, by the API's error.
        restores: copies by how they came to be: "on demand", "parked", "cold", "failed".
        deaths: copies that ended while they waited.
        throttled: requests that were refused, by reason.
        stranded: events that were given up.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = Histogram(
            "snapruntime_answer_seconds",
            "From the invocation to its answer, by how it came by its process.",
            ["function", "way"],
            registry=self.registry,
            buckets=_BUCKETS_S,
        )
        self._errors = Counter(
            "snapruntime_function_errors", "Answers that are errors.", ["function", "type"], registry=self.registry
        )
        self.failures = Counter(
            "snapruntime_failures",
            "Invocations without an answer, by the API's error.",
            ["error"],
            registry=self.registry,
        )
        self.restores = Counter("snapruntime_starts", "Processes started, by how.", ["how"], registry=self.registry)
        self.deaths = Counter(
            "snapruntime_deaths_while_waiting", "Copies that ended while they waited.", registry=self.registry
        )
        self.throttled = Counter("snapruntime_throttled", "Refused requests.", ["reason"], registry=self.registry)
        self.stranded = Counter("snapruntime_events_given_up", "Events given up.", ["function"], registry=self.registry)

    def gauge(self, name: str, meaning: str, value: Callable[[], float]) -> None:
        """A value that is asked for when somebody looks."""
        Gauge(f"snapruntime_{name}", meaning, registry=self.registry).set_function(value)

    def answered(self, function: str, answer: Answer, error_type: str | None) -> None:
        """Count an answer."""
        self._answers.labels(function, answer.way).observe(answer.total_ms / 1000)
        if error_type is not None:
            kind = error_type if error_type in _KNOWN else "the function's own"
            self._errors.labels(function, kind).inc()
