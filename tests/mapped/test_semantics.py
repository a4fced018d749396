"""A copy's memory behaves as the worker's did, though it is a mapping of a file: one test for each way to tell."""

from __future__ import annotations

import pytest
from support import Write

from snapruntime import Runtime
from snapruntime.mechanisms.mapped import MEMORY

from .conftest import Lab

DONTNEED, DONTNEED_LOCKED, GUARD_INSTALL = 4, 24, 102


@pytest.mark.parametrize("advice", [DONTNEED, DONTNEED_LOCKED, GUARD_INSTALL])
def test_what_would_show_the_file_again_is_refused(lab: Lab, advice: int) -> None:
    assert lab("dropped", advice) == ["EINVAL", "A"]


def test_an_interval_that_only_touches_a_range_is_refused(lab: Lab) -> None:
    assert lab("overlapping") == ["EINVAL", "EINVAL", "EINVAL", "EINVAL", "A"]


def test_an_interval_beside_a_range_is_allowed(lab: Lab) -> None:
    assert lab("beside") == ["ok", "ok", "ok"]


def test_memory_that_the_copy_makes_is_as_anywhere(lab: Lab) -> None:
    assert lab("fresh") == ["ok", "0", "ok"]


def test_process_madvise_of_itself(lab: Lab) -> None:
    assert lab("process_madvise") == [False, "A"]


def test_other_advice_changes_nothing_that_can_be_read(lab: Lab) -> None:
    results, content = lab("advised")
    assert content == "A"
    assert results["8"] == results["18"] == "EINVAL"  # MADV_FREE, MADV_WIPEONFORK
    assert results["9"] != "ok"  # MADV_REMOVE


def test_locked_memory_is_not_dropped(lab: Lab) -> None:
    assert lab("locked") == ["EINVAL", "A"]


@pytest.mark.parametrize("flags", [0, 1], ids=["in place", "may move"])
def test_mremap_growth_is_refused(lab: Lab, flags: int) -> None:
    assert lab("remapped", 65, flags) == ["ENOMEM", "A"]


def test_mremap_to_another_place_is_refused(lab: Lab) -> None:
    assert lab("moved") == [["ENOMEM", "ENOMEM"], "A"]


def test_mremap_shrinks_in_place(lab: Lab) -> None:
    assert lab("shrunk") == ["ok", "A", "0"]


def test_munmap_and_map_fixed_of_a_part(lab: Lab) -> None:
    assert lab("replaced") == ["0", "A", "0", "A"]


def test_realloc_of_a_large_block_copies_it(lab: Lab) -> None:
    assert lab("reallocated") == ["A", "B"]


def test_the_break_moves_down_and_up(lab: Lab) -> None:
    assert lab("heap") == ["A", "0"]


def test_glibc_trims_and_callocs(lab: Lab) -> None:
    assert lab("trimmed") == [["0"], ["0"]]


def test_sparse_memory_is_zero_where_it_was_not_touched(lab: Lab) -> None:
    assert lab("sparse_parts") == [["A", "A", "A"], "0", "ok", "0"]


def test_a_huge_mapping_with_two_pages(lab: Lab) -> None:
    assert lab("huge_parts") == [["A", "A"], "0", "EINVAL", "A"]


def test_reservations_stay_inaccessible_and_become_zeros(lab: Lab) -> None:
    assert lab("reservation") == ["", "0"]


def test_protected_memory_keeps_protection_and_content(lab: Lab) -> None:
    assert lab("unhidden") == ["", "A"]


def test_a_file_s_private_mapping_keeps_changed_and_unchanged_pages(lab: Lab) -> None:
    assert lab("file_pages") == [["F", "A", "0F"], "F"]


def test_a_child_forked_by_the_handler(lab: Lab) -> None:
    assert lab("in_fork") == ["('EINVAL', 'A', 'P')", "P", "A", "'0'"]


def test_threads_keep_their_stacks_and_are_guarded(lab: Lab) -> None:
    assert lab("in_threads") == [[["EINVAL", "A"], True]] * 4


def test_each_process_of_a_tree_has_its_own_memory(lab: Lab) -> None:
    assert lab("tree") == ["('A', 'A', '0A')", "('AC', 'C', '0A')", "('EINVAL', 'C')"]


def test_shared_memory_is_shared_within_a_copy_and_not_beyond(lab: Lab) -> None:
    for _ in range(2):
        assert lab("common") == ["AA", "('AS', 'AM')", "AS", "ok"]


def test_a_process_whose_memory_the_kernel_may_merge(runtime: Runtime, write: Write) -> None:
    """With PR_SET_MEMORY_MERGE (Linux 6.4) all that it maps later is as if advised MADV_MERGEABLE."""
    function = write(
        """
        import ctypes, mmap
        libc = ctypes.CDLL(None)
        taken = libc.prctl(67, 1, 0, 0, 0)
        data = bytearray(b"A" * (8 << 20))
        with open(__file__, "rb") as file:
            code = mmap.mmap(file.fileno(), 100, access=mmap.ACCESS_COPY)
        code[0] = 65

        def lambda_handler(event, context):
            with open("/proc/self/smaps") as file:
                flags = [line.split() for line in file if line.startswith("VmFlags:")]
            return taken, any("mg" in words for words in flags), set(data) == {65}, code[0]
        """
    )
    with runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
        taken, marked, *content = copy.invoke({}).result
        assert content == [True, 65]
        assert marked == (taken == 0)
        memory = (snapshot.stored.folder / "images" / MEMORY).stat().st_size
        assert memory > 8 << 20, "it was moved"
