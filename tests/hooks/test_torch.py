"""torch's generators, where the virtual environment in TORCH_PYTHON has torch: it takes 5 GB with what it asks for."""

from __future__ import annotations

import os
from contextlib import ExitStack

import pytest
from support import Write

from snapruntime import Runtime
from snapruntime.workflows.check.checker import check

pytestmark = pytest.mark.may_skip("torch takes 5 GB; TORCH_PYTHON names a virtual environment that has it")

SOURCE = """
    import torch
    held = {"a sampler's": torch.utils.data.RandomSampler(range(1000), generator=torch.Generator())}
    own = torch.Generator(); own.seed()
    if USED: torch.rand(1, generator=own)
    def handler(event, context):
        return {
            "global": torch.rand(2).tolist(),
            "own": torch.rand(2, generator=own).tolist(),
            "held": [number for number, _ in zip(held["a sampler's"], range(3))],
        }
"""


@pytest.fixture
def python() -> str:
    found = os.environ.get("TORCH_PYTHON")
    if found is None:
        pytest.skip("no environment with torch is named")
    return found


@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
def test_generators(runtime: Runtime, write: Write, python: str, used: bool) -> None:
    for hooks in ((), ("torch",)):
        function = write(SOURCE.replace("USED", str(used)), python=python, hooks=hooks, timeout_s=60, memory_mb=2048)
        with runtime.snapshot(function) as snapshot, ExitStack() as stack:
            found = [stack.enter_context(snapshot.restore()).invoke({}).result for _ in range(20)]
        different = {name: len({str(one[name]) for one in found}) for name in found[0]}
        assert different == {"global": 20, "own": 20 if hooks else 1, "held": 20 if hooks else 1}


def test_check_names_the_hook(runtime: Runtime, write: Write, python: str) -> None:
    function = write(SOURCE.replace("USED", "True"), python=python, timeout_s=60, memory_mb=2048)
    report = check(runtime, function)
    assert {finding.rule.id: finding.hook for finding in report.findings if finding.rule.id == "SR001"} == {
        "SR001": "torch"
    }
    assert not [finding for finding in report.findings if finding.rule.id == "SR091"]
