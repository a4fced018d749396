"""The filter's program, run by an interpreter of classic BPF: no call is let through that should not be, or kept."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from bpf_machine import pad, run
from hypothesis import given, settings
from hypothesis import strategies as st

from snapruntime.mechanisms import guard, seccomp

PAGE = 1 << 12
ALLOW, EINVAL, ENOMEM = 0x7FFF0000, 0x00050016, 0x0005000C


@st.composite
def ranges(draw: st.DrawFn) -> list[guard.Range]:
    """Ranges in order, apart or touching, many near 4 GiB boundaries, where 32-bit comparisons go wrong."""
    at = draw(st.sampled_from([0x10000, 0xFFFF0000, 0x55550000F000, 0x7FFEFFFF8000]))
    found = []
    for gap, size in draw(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=30)):
        at += gap * PAGE * draw(st.sampled_from([1, 1, 1 << 10, 1 << 20]))
        found.append((at, at + size * PAGE * draw(st.sampled_from([1, 1, 1 << 20]))))
        at = found[-1][1]
    return found


#: The guard by itself, and in one program with the sandbox's filter.
PROGRAMS: dict[str, Callable[[str, list[guard.Range]], bytes]] = {
    "alone": guard.program,
    "with the sandbox's": seccomp.program,
}


def test_the_numbers_of_the_calls() -> None:
    """As in asm/unistd_64.h and, for arm64, asm-generic/unistd.h; nothing else here would notice another number."""
    numbers = {"X86_64": (28, 25, 440), "AARCH64": (233, 216, 440)}
    assert {name: found[1:] for name, found in guard.ARCHITECTURES.items()} == numbers


@given(ranges(), st.data())
@settings(max_examples=200, deadline=None)
@pytest.mark.parametrize("how", list(PROGRAMS))
@pytest.mark.parametrize("name", list(guard.ARCHITECTURES))
def test_every_overlap_is_refused_and_nothing_else(
    name: str, how: str, found: list[guard.Range], data: st.DataObject
) -> None:
    architecture, madvise, mremap, _ = guard.ARCHITECTURES[name]
    program = PROGRAMS[how](name, found)
    edges = st.sampled_from([edge for pair in found for edge in pair])
    near = st.builds(lambda edge, pages: max(0, edge + pages * PAGE), edges, st.integers(-3, 3))
    start, end = data.draw(near), data.draw(near | st.just(1 << 47))
    size = max(0, end - start)
    overlaps = size > 0 and any(start < high and low < start + size for low, high in found)
    for advice in (4, 24, 102):
        expected = EINVAL if overlaps else ALLOW
        assert run(program, madvise, architecture, pad(start, size, advice)) == expected
        assert run(program, madvise, architecture, pad(start | 0xA5 << 56, size, advice)) == expected  # A tag.
    for advice in (0, 3, 8, 9, 14, 18, 25):
        assert run(program, madvise, architecture, pad(start, size, advice)) == ALLOW
    refused = ENOMEM if overlaps else ALLOW
    for new, flags in ((size + 1, 0), (size + (1 << 32), 1), (size, 3), (size, 5)):
        assert run(program, mremap, architecture, pad(start, size, new, flags)) == refused
    for new in {0, size // 2, size}:
        assert run(program, mremap, architecture, pad(start, size, new, 1)) == ALLOW


@pytest.mark.parametrize("name", list(guard.ARCHITECTURES))
def test_other_calls_and_architectures_pass(name: str) -> None:
    architecture, madvise, mremap, process_madvise = guard.ARCHITECTURES[name]
    program = guard.program(name, [(0x10000, 0x20000)])
    for number in range(500):
        if number not in (madvise, mremap, process_madvise):
            assert run(program, number, architecture, pad(0x10000, 0x10000, 4)) == ALLOW
    assert run(program, madvise, 0x40000003, pad(0x10000, 0x10000, 4)) == ALLOW
    assert run(program, madvise, architecture, pad(0x10000, 0x10000, 4)) == EINVAL


@pytest.mark.parametrize("name", list(guard.ARCHITECTURES))
def test_the_sandbox_s_filter_is_the_same_with_the_guard_in_it(name: str) -> None:
    architecture, *guarded, _ = guard.ARCHITECTURES[name]
    both, without = seccomp.program(name, [(0x10000, 0x20000)]), seccomp.program(name)
    for number in (*range(500), 1 << 30, (1 << 30) + guarded[0]):
        for arguments in (pad(), pad(0x7E020080), pad(40), pad(0x20000, 0x10000, 4), pad(0, 0, 4)):
            assert run(both, number, architecture, arguments) == run(without, number, architecture, arguments)
    assert run(both, guarded[0], 0x40000003, pad(0x10000, 0x10000, 4)) == run(without, guarded[0], 0x40000003, pad())


@pytest.mark.parametrize("how", list(PROGRAMS))
@pytest.mark.parametrize("name", list(guard.ARCHITECTURES))
@pytest.mark.parametrize("advice", [4, 24, 102])
def test_process_madvise_is_refused_what_cannot_be_looked_up(name: str, how: str, advice: int) -> None:
    architecture, _, _, process_madvise = guard.ARCHITECTURES[name]
    program = PROGRAMS[how](name, [(0x10000, 0x20000)])
    assert run(program, process_madvise, architecture, pad(3, 0x10000, 1, advice)) == EINVAL
    assert run(program, process_madvise, architecture, pad(3, 0x10000, 1, 20)) == ALLOW  # MADV_COLD


def test_ten_thousand_ranges_become_as_many_as_the_kernel_takes() -> None:
    found = [(start, start + PAGE) for start in range(1 << 32, (1 << 32) + 100_000 * PAGE, 10 * PAGE)]
    found += [(1 << 46, (1 << 46) + PAGE)]
    merged = guard.merged(found)
    assert len(merged) <= guard.MAX_RANGES
    assert merged[-1] == found[-1], "a range far from all others stays by itself"
    assert all(any(low <= start and end <= high for low, high in merged) for start, end in found)
    spread = [(1 << index, (1 << index) + PAGE) for index in range(16, 47)]
    spread = sorted(spread + [(number << 32, (number << 32) + PAGE) for number in range(1000, 4000, 3)])
    assert len(guard.merged(spread)) <= guard.MAX_RANGES
    assert all(len(seccomp.program(name, spread)) // 8 <= 4096 for name in guard.ARCHITECTURES)
