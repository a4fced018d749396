from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest


@pytest.fixture(params=["snapruntime.worker.registry", "snapshot_restore_py"])
def registry(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Ours and AWS's own package: what is said here is true of both."""
    module = importlib.reload(importlib.import_module(request.param))
    yield module
    importlib.reload(module)


def test_register_returns_the_function_and_keeps_its_arguments(registry: ModuleType) -> None:
    def before() -> None: ...

    def after() -> None: ...

    assert registry.register_before_snapshot(before) is before  # so that both work as decorators
    assert registry.register_after_restore(after) is after
    assert registry.register_after_restore(after, 1, a=2) is after
    assert registry.get_before_snapshot() == [(before, (), {})]
    assert registry.get_after_restore() == [(after, (), {}), (after, (1,), {"a": 2})]


def test_the_lists_are_live(registry: ModuleType) -> None:
    hooks = registry.get_before_snapshot()
    registry.register_before_snapshot(print)
    assert len(hooks) == 1
    hooks.clear()
    assert registry.get_before_snapshot() == []


def test_every_function_of_aws_package_is_ours_too() -> None:
    real = importlib.import_module("snapshot_restore_py")
    ours = importlib.import_module("snapruntime.worker.registry")
    functions = {name for name, value in vars(real).items() if callable(value) and value.__module__ == real.__name__}
    assert functions == set(ours.__all__)


def test_order_and_hooks_registered_by_hooks() -> None:
    ours = importlib.reload(importlib.import_module("snapruntime.worker.registry"))
    for name in ("a", "b"):
        ours.register_before_snapshot(print, name)
        ours.register_after_restore(print, name)
    order = []
    for hook in ours.before_snapshot_order():
        order.append(hook[1][0])
        if hook[1][0] == "b":
            ours.register_before_snapshot(print, "late")
    for hook in ours.after_restore_order():
        order.append(hook[1][0])
        if hook[1][0] == "a":
            ours.register_after_restore(print, "late")
    assert order == ["b", "late", "a", "a", "b", "late"]
    assert ours.get_before_snapshot() == []  # as on Lambda
    assert len(ours.get_after_restore()) == 3


def test_hook_names() -> None:
    from snapruntime.worker.registry import hook_name

    assert hook_name(print) == "builtins.print"
    assert hook_name(functools.partial(print, 1)) == "builtins.print"
    assert hook_name(ModuleType.__init__).endswith("__init__")
    assert hook_name(3) == "None.int"
