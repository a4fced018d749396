"""`python -m snapruntime`."""

from __future__ import annotations

from snapruntime.edges.cli import main

main()
