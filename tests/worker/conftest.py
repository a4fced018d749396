from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from .harness import Worker

Spawn = Callable[..., Worker]


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """`spawn(source, files)`: a worker whose task root holds handler.py and other files; not initialised yet."""
    workers: list[Worker] = []

    def start(
        source: str = "def handler(event, context): return event", files: dict[str, str] | None = None, **kwargs: Any
    ) -> Worker:
        root = tmp_path / "task"
        for name, text in {"handler.py": source, **(files or {})}.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text))
        workers.append(Worker(root, **kwargs))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()
