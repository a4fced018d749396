"""Ranges of saved memory: which lie together, and what is left of them. Arithmetic only.

What they are for: `snapruntime.mechanisms.mapped`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

#: Untouched stretches up to so many bytes go into the file too: below that, a mapping more costs more. The widest is
#: taken that keeps the file in its bounds; with the last, only pages that were saved are in it.
_BRIDGED = (256 << 10, 64 << 10, 16 << 10, 0)

#: Of each mapping at most so many times the pages that were saved, and of all together `SLACK` bytes more: a page
#: touched here and there would else bring sixty times as much with it. (All of pandas: 1.03 times.)
_TIMES, SLACK = 4, 64 << 20

#: Less than this, bytes, is no piece of its own where that would cut the mapping of a file, or memory touched here and
#: there: two mappings more, and the file opened once more, cost each restore more than reading these pages.
_WORTH_A_CUT = 256 << 10


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
        file: where in the file that is mapped there its other pages are; None where they are zeros, or there are none.
    """

    start: int
    end: int
    runs: tuple[Run, ...]
    file: int | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A mapping of which pages were saved, and which may be moved.

    Attributes:
        runs: these pages, in order.
        guards: ranges that no piece may have in it (MADV_GUARD_INSTALL).
        file: where in its file it begins; None where it is of no file.
        fixed: up to where, as an address, the other pages are what the file will always have: no copy can write to it.
            At or before `start`, they are not: such pages must stay the file's.
    """

    start: int
    end: int
    runs: list[Run]
    guards: list[tuple[int, int]]
    file: int | None = None
    fixed: int = 0

    def pieces(self, gap: int) -> list[Piece]:
        """What of it moves; stretches that were not touched, up to `gap` bytes, included."""
        fixed = self.fixed >= self.runs[-1].end  # It is not where the file was cut meanwhile.
        found = list(bridge(self.runs, self.guards, gap if self.file is None or fixed else 0))
        if self.file is None and gap == _BRIDGED[0]:
            return found
        if self.file is not None and fixed:
            found[0] = self._up_to_the_ends(found[0], gap)
            found[-1] = self._up_to_the_ends(found[-1], gap)
            found = [Piece(one.start, one.end, one.runs, self.file + one.start - self.start) for one in found]
        whole = (self.start, self.end)
        return [one for one in found if one.end - one.start >= _WORTH_A_CUT or (one.start, one.end) == whole]

    def _up_to_the_ends(self, piece: Piece, gap: int) -> Piece:
        start = self.start if piece.runs[0] == self.runs[0] and piece.start - self.start <= gap else piece.start
        end = self.fixed if piece.runs[-1] == self.runs[-1] and self.fixed - piece.end <= gap else piece.end
        return Piece(start, end, piece.runs)


def plan(parts: dict[int, Part], slack: int) -> tuple[dict[int, list[Piece]], int]:
    """The pieces of each part that has any, and what is left of `slack`, bytes, for what else goes into the file."""
    planned = {}
    for key, part in parts.items():
        pages = sum(run.end - run.start for run in part.runs)
        for gap in _BRIDGED:
            found = part.pieces(gap)
            surplus = max(0, sum(piece.end - piece.start for piece in found) - _TIMES * pages)
            if surplus <= slack:
                break
        slack -= surplus
        if found:
            planned[key] = found
    return planned, slack


def bridge(runs: list[Run], guards: list[tuple[int, int]], gap: int) -> Iterator[Piece]:
    """Runs with `gap` bytes or less between them as one piece; never over a guard page (MADV_GUARD_INSTALL)."""
    group: list[Run] = []
    for run in runs:
        if group:
            before, after = group[-1].end, run.start
            guarded = any(start < after and before < end for start, end in guards)
            if after - before > gap or guarded:
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
