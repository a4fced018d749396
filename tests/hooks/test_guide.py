"""The guide, the README and the folder name the same hooks, and each says what breaks without it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for path in (ROOT / "hooks").glob("*.py") if not path.stem.startswith("_"))


def test_the_guide_and_the_readme_name_all_of_them() -> None:
    guide = (ROOT / "docs" / "snapshot-safety.md").read_text()
    table = guide.partition("## Ready-made hooks")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {path.stem for path in FILES}
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert ", ".join(path.stem for path in FILES[:-1]) + f" and {FILES[-1].stem}." in readme


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_says_what_breaks_without_it(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert "\nWithout it: " in docstring
    assert len(path.read_text().splitlines()) < 100
