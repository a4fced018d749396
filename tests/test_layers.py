"""Imports go down only: worker (alone), values, mechanisms, workflows, edges; bench is a client of all but edges."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import snapruntime

PACKAGE = Path(__file__).resolve().parents[1] / "snapruntime"

#: What each layer may import of this project. The host speaks the worker's own protocol, so it shares that module.
ALLOWED = {
    "worker": {"worker"},
    "values": {"values"},
    "mechanisms": {"mechanisms", "values", "worker.wire"},
    "workflows": {"workflows", "mechanisms", "values", "worker.wire"},
    # It drives the runtime from outside, by what `snapruntime` itself offers; two modules of it need more.
    "bench": {"bench", *snapruntime.__all__},
    "edges": {"edges", "bench", "workflows", "mechanisms", "values", "worker.wire"},
}
#: What stock CRIU has to be handed, to restore in the same surroundings.
STOCK = {"mechanisms", "workflows", "values.life"}
INSIDE = {("bench", "stock.py"), ("bench", "unboxed.py")}
#: A disk of its own for the soak, and a look at whether what is on it is whole; where CRIU is, for the load test.
SOAK = {"mechanisms.linux", "mechanisms.store"}
MODULES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "bench").rglob("*.py")])


def imports(path: Path) -> Iterator[str]:
    """The absolute names of all modules that a file imports, wherever in it, annotations' imports among them."""
    package = ["snapruntime", *path.relative_to(PACKAGE).parent.parts]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    if len(parts) == 1:
        return  # The package's own front door.
    allowed = ALLOWED[parts[0]] | (STOCK if parts[:2] in INSIDE else set())
    allowed |= SOAK if parts[:2] in (("bench", "soak"), ("bench", "load")) else set()
    for name in imports(path):
        if name.split(".")[0] == "snapruntime":
            within = name.removeprefix("snapruntime").lstrip(".")
            assert any(within == one or within.startswith(f"{one}.") for one in allowed), f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "worker").glob("*.py")), ids=lambda path: path.name)
def test_the_worker_needs_the_standard_library_only(path: Path) -> None:
    for name in imports(path):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or top == "_snapruntime_worker" or name.startswith("snapruntime.worker")


def test_only_the_edge_imports_the_benchmark() -> None:
    """The runtime works without the benchmark's libraries; of its command, only the one module needs them."""
    users = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        for name in imports(path)
        if name.startswith("snapruntime.bench")
    }
    assert {user for user in users if not user.startswith("bench/")} == {"edges/bench.py"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "bench").glob("*.py")), ids=lambda path: path.name)
def test_the_benchmark_imports_large_libraries_where_it_uses_them(path: Path) -> None:
    """What this process maps stays in the page cache, and `snapruntime run` imports the command line's modules too."""
    top = {
        name.split(".")[0]
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""])
    }
    assert top <= sys.stdlib_module_names | {"__future__", "snapruntime"}


def test_hooks_need_the_worker_only() -> None:
    """They run where nothing of ours is but the worker's stand-in, and where a handler uses none of the libraries."""
    for path in sorted((PACKAGE.parent / "hooks").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                allowed = {
                    "__future__",
                    "ctypes",
                    "gc",
                    "os",
                    "sys",
                    "typing",
                    "snapruntime",
                    "snapruntime.hooks",
                    "snapruntime.hooks._living",
                }
                assert name in allowed, f"{path.name} imports {name}"


def test_only_one_module_speaks_with_criu_and_one_reads_its_images() -> None:
    users = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if any(name.split(".")[0] == "pycriu" for name in imports(path))
    }
    assert users <= {"mechanisms/criu.py", "mechanisms/images.py"} | {
        name for name in users if name.startswith("mechanisms/provision/")
    }


def test_modules_stay_small() -> None:
    sizes = {path: len(path.read_text().splitlines()) for path in MODULES}
    assert {str(path): size for path, size in sizes.items() if size > 420} == {}


def test_every_layer_is_known() -> None:
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        *ALLOWED,
        "hooks",
    }
