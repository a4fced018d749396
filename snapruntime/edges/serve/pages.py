"""What is not AWS's: liveness, readiness, and the metrics, at paths that no call of the API has."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from snapruntime.edges.serve.api import Operation, Routes
from snapruntime.edges.serve.exchange import Call, Reply, reply_json
from snapruntime.values.service_errors import RequestEntityTooLargeException

LIVENESS, READINESS, METRICS = "/livez", "/readyz", "/metrics"


class Pages:
    """Answers the three paths.

    Args:
        registry: the metrics.
        ready: whether functions can be invoked: not yet, and not any more, while the server begins and ends.
    """

    def __init__(self, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        self._registry = registry
        self._ready = ready
        self._routes = Routes(
            [
                _page("Liveness", LIVENESS, self._liveness),
                _page("Readiness", READINESS, self._readiness),
                _page("Metrics", METRICS, self._metrics),
            ]
        )
        self.find = self._routes.find

    @staticmethod
    def open_to(operation: Operation, near: bool) -> bool:
        """Whether it needs no signature: probes for everybody, metrics for those on this machine."""
        return operation.name in ("Liveness", "Readiness") or (operation.name == "Metrics" and near)

    def _liveness(self, _: Call) -> Reply:
        return reply_json({"status": "alive"})

    def _readiness(self, _: Call) -> Reply:
        return reply_json({"status": "ready"}) if self._ready() else reply_json({"status": "stopping"}, 503)

    def _metrics(self, _: Call) -> Reply:
        return Reply(200, generate_latest(self._registry), CONTENT_TYPE_LATEST)


def _page(name: str, path: str, answer: Callable[[Call], Reply]) -> Operation:
    return Operation(name, "GET", path, answer, lambda _: 0, _no_body, "page")


def _no_body(_: int) -> RequestEntityTooLargeException:
    return RequestEntityTooLargeException("This takes no body.")
