"""README cannot drift: commands, options and exit codes stand in it, and its blocks run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edges.conftest import LIMIT_S
from snapruntime.edges import exits
from snapruntime.edges.commands import commands

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
CONTEXT = click.Context(commands)
#: <!-- run: FOLDER --> before a fenced block: it is run there.
BLOCKS = re.findall(r"<!-- run: (\S+) -->\n```(\w+)\n(.*?)```", README, re.DOTALL)
COMMANDS = {name: commands.get_command(CONTEXT, name) for name in commands.list_commands(CONTEXT)}
PARAMETERS = [(name, parameter) for name, command in COMMANDS.items() if command for parameter in command.params]
OPTIONS = [(name, option) for name, option in PARAMETERS if isinstance(option, click.Option)]


def test_every_command_is_in_the_readme() -> None:
    for name, command in COMMANDS.items():
        assert command is not None
        assert command.name == name
        assert f"snapruntime {name}" in README


@pytest.mark.parametrize(("command", "option"), OPTIONS, ids=lambda value: getattr(value, "name", value))
def test_every_option_is_explained(command: str, option: click.Option) -> None:
    assert option.help
    for name in option.opts:
        assert f"`{name}" in README or f" {name} " in README, f"{command} {name} is not in README.md"


def test_the_readme_names_no_other_options() -> None:
    names = {name for _, option in OPTIONS for name in (*option.opts, *option.secondary_opts)}
    names |= {name for option in commands.params for name in option.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", README))
    dockers = {"--rm", "--privileged", "--cap-add", "--cap-drop", "--security-opt", "--cgroupns", "--entrypoint"}
    others = {"--endpoint-url", "--snapruntime-required", "--target"}
    assert named - names == dockers | others, "but docker's own, the AWS CLI's, the pytest plugin's, and pip's"


def test_every_exit_code_is_in_the_table() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == exits.MEANINGS


@pytest.mark.parametrize(("folder", "language", "block"), BLOCKS, ids=[language for _, language, _ in BLOCKS])
def test_blocks_run(home: Path, folder: str, language: str, block: str) -> None:
    script = {"sh": ["bash", "-euc", block], "python": [sys.executable, "-c", block]}[language]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"SNAPRUNTIME_HOME": str(home), "PATH": path}
    done = subprocess.run(
        script, cwd=ROOT / folder, env=environment, capture_output=True, text=True, timeout=LIMIT_S
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if language == "python":
        assert re.fullmatch(r"\d+ [\d.]+ Hello, Ada!\n\d+ [\d.]+ Hello, Grace!\n", done.stdout)


def test_there_are_blocks_of_both_kinds() -> None:
    assert {language for _, language, _ in BLOCKS} == {"sh", "python"}


def test_the_continuous_integration_calls_the_readmes_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.splitlines()[-1] == "exec make test </dev/null"
    assert "set -eu" in script
    assert "# make test" in README


def test_no_host_names_of_mirrors() -> None:
    for name in ("README.md", "Makefile", ".ci/run", ".ci/venv"):
        for host in re.findall(r"https?://([^/\s)]+)", (ROOT / name).read_text()):
            assert host == "criu.org" or host.startswith("127.0.0.1:")
