"""The pytest plugin, in a project of a user's own: found by its entry point, nothing imported from here."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import write_files

from snapruntime.mechanisms.provision.install import find_criu
from snapruntime.values.errors import HostError

FILES = {
    "shop.py": """
        import random, uuid

        SESSION = uuid.uuid4().hex

        def create(event, context):
            return {"order": random.getrandbits(64), "session": SESSION}

        def total(event, context):
            return sum(event["prices"])
        """,
    "test_shop.py": """
        def test_orders_have_numbers_of_their_own(snapruntime):
            function = snapruntime("shop.py:create", timeout_s=5)
            first, second = function.copies(2)
            assert first.pid != second.pid
            assert first.invoke({}).result["order"] != second.invoke({}).result["order"]

        def test_a_copy_answers_as_a_cold_start_does(snapruntime):
            function = snapruntime("shop.py:total")
            event = {"prices": [1, 2, 3]}
            assert function.invoke(event).result == function.cold().invoke(event).result == 6

        def test_sessions_are_shared(snapruntime):
            report = snapruntime("shop.py:create").check()
            assert [finding.path for finding in report.of("error")] == ["shop.SESSION", "response.session"]

        def test_create_is_safe(snapruntime):
            snapruntime("shop.py:create").assert_safe()
        """,
}


@pytest.fixture
def project(code_root: Path) -> Path:
    folder = code_root / "plugin"
    write_files(folder, FILES)
    return folder


def run_pytest(folder: Path, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--tb=short", *arguments]
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "PYTEST_ADDOPTS")}
    environment |= {"SNAPRUNTIME_HOME": str(home)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=90)


def test_a_users_own_tests(project: Path, criu_home: Path) -> None:
    done = run_pytest(project, criu_home)
    assert "1 failed, 3 passed" in done.stdout, done.stdout
    assert "not safe to be copied" in done.stdout
    assert "shop.py:3: error SR003 unique-value" in done.stdout
    assert "FAILED test_shop.py::test_create_is_safe" in done.stdout


def test_no_warning_of_ours_is_the_users(project: Path, criu_home: Path) -> None:
    done = run_pytest(project, criu_home, "-W", "error", "-k", "numbers_of_their_own")
    assert "1 passed" in done.stdout, done.stdout
    assert "warning" not in done.stdout


def test_files_beside_the_test_and_a_wrong_name(project: Path, criu_home: Path) -> None:
    write_files(
        project,
        {
            "unit/near.py": "def handler(event, context):\n    return 'near'\n",
            "unit/test_near.py": """
                def test_near(snapruntime):
                    assert snapruntime("near.py").invoke().result == "near"
                    assert snapruntime("shop.py:total").invoke({"prices": [1]}).result == 1

                def test_nowhere(snapruntime):
                    snapruntime("nowhere.py")
                """,
        },
    )
    done = run_pytest(project, criu_home, "--rootdir", ".", "unit")
    assert "1 failed, 1 passed" in done.stdout, done.stdout
    assert "There is no file nowhere.py. HANDLER is a file" in done.stdout
    assert "Traceback" not in done.stdout
    assert "resolve.py" not in done.stdout


@pytest.mark.may_skip("a host whose system has a CRIU that works can always take snapshots")
def test_where_the_host_cannot(project: Path, tmp_path: Path) -> None:
    """Without a CRIU: skipped, or failed where that is asked for."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with contextlib.suppress(HostError):
        pytest.skip(f"{find_criu(empty).describe()} is there")
    arguments = ("-k", "cold_start", "-rs")
    done = run_pytest(project, empty, *arguments)
    assert "1 skipped" in done.stdout, done.stdout
    assert "snapruntime setup" in done.stdout
    assert run_pytest(project, empty, "--snapruntime-required", *arguments).returncode == 1
