"""The corpus, where an unprivileged user can read it, and the servers that its handlers talk to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support import write_files

from .servers import running

CORPUS = Path(__file__).with_name("corpus")


@pytest.fixture(scope="session")
def servers() -> Iterator[dict[str, str]]:
    """Where the servers are, as environment variables."""
    with running() as environment:
        yield environment


@pytest.fixture(scope="session")
def corpus(code_root: Path) -> Path:
    """A copy of the corpus."""
    folder = code_root / "corpus"
    write_files(folder, {path.name: path.read_bytes() for path in CORPUS.glob("*.py")})
    return folder
