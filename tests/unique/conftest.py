"""The fixture of a worker without CRIU, for what needs no copy."""

from worker.conftest import spawn

__all__ = ["spawn"]
