"""The function's source: where a global or an attribute is assigned, and which lines have a suppressing comment."""

from __future__ import annotations

import ast
import io
import os
import re
import stat
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from snapruntime.values.findings import Finding, Place
from snapruntime.workflows.check.rules import RULES

_COMMENT = re.compile(r"#\s*snapruntime:\s*ignore(?:\[([^\]]*)\])?\s*[:,-]?\s*(.*)")


@dataclass(frozen=True, slots=True)
class Suppression:
    """A comment: `# snapruntime: ignore[SR001, SR003] REASON`.

    Attributes:
        line: the line of the comment.
        covers: the lines that it speaks of: its own, or, alone on its line, the statement below it.
        rules: the ids it names.
        reason: what it says; empty where it says nothing.
    """

    line: int
    covers: range
    rules: tuple[str, ...]
    reason: str

    @property
    def trouble(self) -> str:
        """Why it does not count; empty where it does."""
        unknown = [rule for rule in self.rules if rule not in RULES]
        if not self.rules:
            return "It names no rule."
        if unknown:
            return f"There is no rule {', '.join(unknown)}."
        return "" if len(self.reason) >= 3 else "It gives no reason."


#: A source file longer than this is not read, bytes.
_LIMIT = 1 << 20


class UnreadableError(Exception):
    """A file is none whose source can be read; the message says why."""


@cache
def source(path: str, root: str) -> str:
    """The text of a source file below the folder `root`, in the encoding that it names.

    The names come from the process that is looked at, which may say what it likes and can change its folder meanwhile:
    what the name leads to is held by O_PATH, which opens nothing, and judged before it is opened.

    Raises:
        UnreadableError: there is none, it is elsewhere, no regular file, too large, or in no such encoding.
    """
    try:
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UnreadableError(f"it cannot be opened ({error})") from error
    try:
        name, found = f"/proc/self/fd/{held}", os.fstat(held)
        if not os.readlink(name).startswith(os.path.join(os.path.realpath(root), "")):
            raise UnreadableError("it lies outside of the function's folder")
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LIMIT:
            raise UnreadableError(f"it is no regular file of {_LIMIT >> 20} MB at most")
        with open(os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(_LIMIT)
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return io.TextIOWrapper(io.BytesIO(data), encoding).read()
    except (OSError, SyntaxError, LookupError, ValueError) as error:
        raise UnreadableError(f"it cannot be read ({error})") from error
    finally:
        os.close(held)


def read(path: str, root: str) -> str:
    """The text of a source file, see `source`; empty where it cannot be read."""
    try:
        return source(path, root)
    except UnreadableError:
        return ""


@cache
def _tree(path: str, root: str) -> ast.Module:
    try:
        return ast.parse(read(path, root))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # The last two where it is nested too deeply.
        return ast.Module(body=[], type_ignores=[])


def shown(path: str, task_root: str) -> str:
    """A file as messages name it: relative to the function's folder where it is in there."""
    relative = os.path.relpath(path, os.path.realpath(task_root))
    return path if relative.startswith("..") else relative


def assignment(origin: Sequence[str | None], task_root: str) -> Place | None:
    """The line where the scan's `source` ([file, global, class, attribute]) gets its value."""
    file, name, owner, attribute = origin
    if file is None:
        return None
    line = None
    if owner and attribute:
        line = _attribute_line(_tree(file, task_root), owner.replace(".<locals>", ""), attribute)
    if line is None and name:
        line = _global_line(_tree(file, task_root), name)
    return None if line is None else Place(shown(file, task_root), line)


def _attribute_line(tree: ast.Module, owner: str, attribute: str) -> int | None:
    """Where a class sets `self.attribute`, in __init__ before elsewhere, or has it in its body."""
    name = owner.rpartition(".")[2]
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            for function in (node, *node.body):
                for inner in ast.walk(function):
                    for target in _targets(inner):
                        is_self = isinstance(target, ast.Attribute) and target.attr == attribute
                        if is_self or (isinstance(target, ast.Name) and target.id == attribute and function is node):
                            first = isinstance(function, ast.FunctionDef) and function.name == "__init__"
                            lines.append((_is_placeholder(inner), not first, target.lineno))
    return min(lines)[2] if lines else None


def _is_placeholder(node: ast.AST) -> bool:
    """Whether an assignment is of a constant ("self.client = None"), so that another made what is there."""
    return isinstance(getattr(node, "value", None), ast.Constant)


def _global_line(tree: ast.Module, name: str) -> int | None:
    """Where a global is assigned: at module level before within a function; else where it is defined."""
    lines: list[tuple[bool, bool, int]] = []
    for top in tree.body:
        for node in ast.walk(top):
            inside = isinstance(top, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            if any(isinstance(target, ast.Name) and target.id == name for target in _targets(node)):
                lines.append((_is_placeholder(node), inside, node.lineno))  # type: ignore[attr-defined]
        if isinstance(top, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and top.name == name:
            lines.append((False, False, top.lineno))
    return min(lines)[2] if lines else None


def _targets(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Assign):
        todo = list(node.targets)
    elif isinstance(node, (ast.AnnAssign, ast.AugAssign, ast.NamedExpr, ast.For)):
        todo = [node.target]
    elif isinstance(node, ast.withitem) and node.optional_vars is not None:
        todo = [node.optional_vars]
    else:
        return
    for target in todo:
        if isinstance(target, (ast.Tuple, ast.List)):
            todo += target.elts
        yield target


@cache
def suppressions(path: str, root: str) -> tuple[Suppression, ...]:
    """The suppressing comments of a file below `root`."""
    found = []
    text = read(path, root)
    statements = [node for node in ast.walk(_tree(path, root)) if isinstance(node, ast.stmt)]
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            match = _COMMENT.match(token.string) if token.type == tokenize.COMMENT else None
            if match:
                line = token.start[0]
                rules = tuple(part.strip() for part in (match[1] or "").split(",") if part.strip())
                if token.line[: token.start[1]].strip():
                    simple = [one for one in statements if not hasattr(one, "body")]
                    first = max(
                        (one.lineno for one in simple if one.lineno <= line <= (one.end_lineno or 0)), default=line
                    )
                    covers = range(first, line + 1)
                else:
                    below = min((one.lineno for one in statements if one.lineno > line), default=line)
                    covers = range(line, below + 1)
                found.append(Suppression(line, covers, rules, match[2].strip()))
    except (tokenize.TokenError, SyntaxError):
        return ()
    return tuple(found)


def suppress(findings: Sequence[Finding], task_root: str, root: str | None = None) -> list[Finding]:
    """The findings, with those marked that a comment with a reason speaks of.

    Args:
        task_root: the folder that their places are relative to.
        root: the folder that is read; the same by default.
    """
    return [replace(finding, suppressed=_reason(finding, task_root, root or task_root)) for finding in findings]


def _reason(finding: Finding, task_root: str, root: str) -> str | None:
    if finding.place is None:
        return None
    for one in suppressions(str(Path(os.path.realpath(task_root), finding.place.file)), root):
        if finding.place.line in one.covers and finding.rule.id in one.rules and not one.trouble:
            return one.reason
    return None


def bad_suppressions(path: str, task_root: str, root: str) -> Iterator[Finding]:
    """A finding for each comment that does not do what it was written for; for the folders see `suppress`."""
    for one in suppressions(path, root):
        if one.trouble:
            yield Finding(
                RULES["SR090"],
                one.trouble,
                place=Place(shown(path, task_root), one.line),
                found_by="static",
            )
