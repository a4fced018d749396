"""How much goes into the memory file is bounded by the pages that were saved; arithmetic only."""

from __future__ import annotations

import pytest

from snapruntime.mechanisms.pieces import SLACK, Part, Run, plan

PAGE, BASE = 4096, 1 << 32


def part(length: int, pages: list[int], *, file: int | None = None, fixed: int = 0) -> Part:
    """A mapping of `length` pages of which single pages were saved, `fixed` pages of its file for good."""
    runs = [Run(BASE + page * PAGE, BASE + (page + 1) * PAGE, 0, 4) for page in pages]
    return Part(BASE, BASE + length * PAGE, runs, [], file, BASE + fixed * PAGE)


def planned(one: Part, slack: int = SLACK) -> list[tuple[int, int, int | None]]:
    pieces = plan({0: one}, slack)[0].get(0, [])
    return [((piece.start - BASE) // PAGE, (piece.end - BASE) // PAGE, piece.file) for piece in pieces]


@pytest.mark.parametrize("file", [None, 0], ids=["anonymous", "library"])
@pytest.mark.parametrize("every", [2, 5, 17, 60, 64, 70])
def test_a_page_here_and_there(file: int | None, every: int) -> None:
    one = part(1 << 20, list(range(0, 1 << 20, every)), file=file, fixed=1 << 20)
    size = sum(high - low for low, high, _ in planned(one)) * PAGE
    assert size <= 4 * len(one.runs) * PAGE + SLACK
    if every == 2:
        assert len(planned(one)) == 1


def test_what_one_mapping_takes_is_missing_to_the_next() -> None:
    one = part(40 << 8, list(range(0, 40 << 8, 60)))
    found, left = plan(dict.fromkeys(range(10), one), SLACK)
    size = sum(piece.end - piece.start for pieces in found.values() for piece in pieces)
    assert 0 < len(found) < 10
    assert size - 4 * len(one.runs) * PAGE * len(found) == SLACK - left
    assert 0 <= left < SLACK


def test_a_library_s_data_are_one_piece() -> None:
    assert planned(part(60, [3, 4, 50], file=8 * PAGE, fixed=60)) == [(0, 60, 8 * PAGE)]


def test_of_a_long_file_the_far_ends_stay() -> None:
    pages = [100, *range(110, 180)]
    assert planned(part(1000, pages, file=0, fixed=1000)) == [(100, 180, 100 * PAGE)]


def test_no_page_beyond_the_end_of_a_file_moves() -> None:
    assert planned(part(100, list(range(10, 80)), file=0, fixed=90)) == [(0, 90, 0)]


def test_a_file_that_can_be_written_to_keeps_its_other_pages() -> None:
    assert planned(part(200, [*range(10, 80), *range(81, 150), 199], file=0)) == [(10, 80, None), (81, 150, None)]


def test_a_file_that_became_shorter_meanwhile() -> None:
    assert planned(part(200, list(range(10, 80)), file=0, fixed=70)) == [(10, 80, None)]


def test_a_mapping_of_which_every_page_was_written_is_moved_however_small() -> None:
    assert planned(part(2, [0, 1], file=0)) == [(0, 2, None)]
    assert planned(part(2, [0], file=0)) == []
