"""Ranges of saved memory: which lie together, and what is left of them. Arithmetic only.

What they are for: `snapruntime.mechanisms.mapped`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Untouched stretches up to so many bytes go into the file as zeros: below that, a mapping more costs more.
_BRIDGED = 256 << 10


@dataclass(frozen=True, slots=True)
class Run:
    """Pages one after another, in memory and in CRIU's file of pages."""

    start: int
    end: int
    offset: int
    flags: int

    def part(self, start: int, end: int) -> Run:
        return Run(start, end, self.offset + start - self.start, self.flags)


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of memory that moves to the memory file.

    Attributes:
        runs: what CRIU saved of it.
        file: (start, end, offset) of the file mapping it is; its other pages are those of that file.
    """

    start: int
    end: int
    runs: tuple[Run, ...]
    file: tuple[int, int, int] | None = None


def bridge(runs: list[Run], guards: list[tuple[int, int]]) -> Iterator[Piece]:
    """Runs with little between them as one piece; never over a guard page (MADV_GUARD_INSTALL)."""
    group: list[Run] = []
    for run in runs:
        if group:
            before, after = group[-1].end, run.start
            guarded = any(start < after and before < end for start, end in guards)
            if after - before > _BRIDGED or guarded:
                yield Piece(group[0].start, before, tuple(group))
                group = []
        group.append(run)
    if group:
        yield Piece(group[0].start, group[-1].end, tuple(group))


def without(runs: list[Run], moved: list[Piece]) -> Iterator[Run]:
    """The parts of runs that are in none of the pieces; both are in order."""
    pieces = iter([*moved, None])
    piece = next(pieces)
    for run in runs:
        at = run.start
        while piece is not None and piece.start < run.end:
            if at < piece.start:
                yield run.part(at, piece.start)
            at = max(at, min(piece.end, run.end))
            if piece.end > run.end:
                break
            piece = next(pieces)
        if at < run.end:
            yield run.part(at, run.end)
