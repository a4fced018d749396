"""The fixture `snapruntime` comes with the package: it resolves a function, and makes one snapshot of it."""


def test_two_copies_of_one_snapshot(snapruntime):
    function = snapruntime("functions/prices.py:handler", timeout_s=10)
    event = {"items": ["tea", "cake"]}
    first, second = (copy.invoke(event).result for copy in function.copies(2))
    assert first["total"] == second["total"] == "7.70"
    assert first["receipt"] != second["receipt"]


def test_a_copy_answers_as_a_cold_start_does(snapruntime):
    function = snapruntime("functions/prices.py:handler", timeout_s=10)
    event = {"items": ["tea"]}
    assert function.invoke(event).result["total"] == function.cold().invoke(event).result["total"] == "3.20"


def test_nothing_is_shared_that_must_not_be(snapruntime):
    snapruntime("functions/prices.py:handler").assert_safe({"items": ["tea"]})
