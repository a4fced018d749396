"""pycriu comes with CRIU, protobuf from elsewhere: whether one can work with the other is tried, not assumed."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from snapruntime.mechanisms.provision.candidates import pycriu_trouble
from snapruntime.values.host import Criu

ROOT = Path(__file__).resolve().parents[2]


def test_the_installed_one_works(installed: Criu) -> None:
    assert pycriu_trouble(installed.pycriu) is None


def test_one_that_imports_but_cannot_read_an_image(installed: Criu, tmp_path: Path) -> None:
    """As CRIU 4.1's with protobuf 7, which has no FieldDescriptor.label any more."""
    assert installed.pycriu is not None
    shutil.copytree(installed.pycriu, tmp_path / "python")
    converter = tmp_path / "python" / "pycriu" / "images" / "pb2dict.py"
    text = converter.read_text()
    assert "field.label" in text
    converter.write_text(text.replace("field.label", "field.label_that_is_gone").replace("'label'", "'name'"))
    trouble = pycriu_trouble(tmp_path / "python")
    assert trouble is not None
    assert "label_that_is_gone" in trouble


def test_one_that_is_not_there(tmp_path: Path) -> None:
    assert "No module named 'pycriu'" in (pycriu_trouble(tmp_path) or "")
    assert pycriu_trouble(None) == "it was not found"


def test_no_protobuf_that_4_1_cannot_work_with() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (protobuf,) = (requirement for requirement in map(Requirement, named) if requirement.name == "protobuf")
    assert not protobuf.specifier.contains("7.34.0")
    assert protobuf.specifier.contains("6.33.6")
