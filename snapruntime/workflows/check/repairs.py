"""What a file's own hooks put right, for the static pass: the globals that they close, make anew, or reseed."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from snapruntime.workflows.check.calls import PUTS_RIGHT

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def put_right(tree: ast.Module, names: Mapping[str, str], functions: Mapping[str, _Function]) -> set[str]:
    """The names, as they are written ("conn", "service.rng"), that hooks of the file put right.

    Args:
        names: what imported names stand for.
        functions: the functions of the file.
    """
    found: set[str] = set()
    for hook, kind in _hooks(tree, names, functions):
        if isinstance(hook, _Function):
            _learn(hook, kind, functions, found)
        else:
            found.add(ast.unparse(hook))
    return found


def _hooks(
    tree: ast.Module, names: Mapping[str, str], functions: Mapping[str, _Function]
) -> Iterator[tuple[_Function | ast.expr, str]]:
    """Functions registered as hooks, and objects a method of which is: `register_after_restore(rng.seed)`."""
    for node in ast.walk(tree):
        if isinstance(node, _Function):
            for decorator in node.decorator_list:
                if kind := _registration(decorator, names):
                    yield node, kind
        elif isinstance(node, ast.Call) and node.args and (kind := _registration(node.func, names)):
            first = node.args[0]
            if isinstance(first, ast.Name) and first.id in functions:
                yield functions[first.id], kind
            elif isinstance(first, ast.Attribute) and first.attr in PUTS_RIGHT[kind]:
                yield first.value, kind


def _registration(node: ast.expr, names: Mapping[str, str]) -> str:
    """Which kind of hook a call registers; empty where it is no registration."""
    name = ast.unparse(node).rpartition(".")[2] if isinstance(node, (ast.Name, ast.Attribute)) else ""
    name = names.get(name, name).rpartition(".")[2]
    return name if name in PUTS_RIGHT else ""


def _learn(hook: _Function, kind: str, functions: Mapping[str, _Function], found: set[str]) -> None:
    own = {name for node in ast.walk(hook) if isinstance(node, ast.Global) for name in node.names}
    for node in ast.walk(hook):
        if isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                root = target
                while isinstance(root, (ast.Attribute, ast.Subscript)):
                    root = root.value
                if isinstance(root, ast.Name) and (root.id in own or root is not target):
                    found.add(root.id)
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Attribute) and function.attr in PUTS_RIGHT[kind]:
                found.add(ast.unparse(function.value))
            elif isinstance(function, ast.Name) and functions.get(function.id, hook) is not hook:
                _learn(functions[function.id], kind, functions, found)
