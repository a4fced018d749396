"""What CRIU found out about the kernel is found out once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import copy_criu
from support import Write

from snapruntime import Runtime
from snapruntime.mechanisms import kernel_probes
from snapruntime.mechanisms.criu import CriuWorker


def test_the_second_run_does_not_probe(
    criu_home: Path, tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_criu(criu_home, tmp_path / "home")
    probed: list[float] = []
    probe = CriuWorker.probe_kernel

    def counted(self: CriuWorker, deadline: float) -> None:
        probed.append(deadline)
        probe(self, deadline)

    monkeypatch.setattr(CriuWorker, "probe_kernel", counted)
    function = write("def lambda_handler(e, c): return 5")
    for _ in range(2):
        with Runtime(home) as runtime, runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
            assert copy.invoke({}).result == 5
    assert len(probed) == 1
    (kept,) = (home / "kernel").iterdir()
    assert kept.stat().st_mode & 0o077 == 0


def test_answers_that_are_damaged_are_found_out_anew(criu_home: Path, tmp_path: Path, write: Write) -> None:
    home = copy_criu(criu_home, tmp_path / "home")
    with Runtime(home) as runtime:
        criu = runtime.criu
    (kept,) = (home / "kernel").iterdir()
    whole = kept.read_bytes()
    function = write("def lambda_handler(e, c): return 5")
    for damaged in (b"", b"not what CRIU wrote", whole[:-1]):
        kept.write_bytes(damaged)
        assert kernel_probes.recall(home, criu) is None
        with Runtime(home) as runtime, runtime.snapshot(function) as snapshot, snapshot.restore() as copy:
            assert copy.invoke({}).result == 5
        assert kept.read_bytes() != damaged
    other = replace(criu, version=(9, 9, 9))
    assert kernel_probes.recall(home, criu) is not None
    assert kernel_probes.recall(home, other) is None
