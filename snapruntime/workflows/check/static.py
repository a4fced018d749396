"""The static pass: what can be seen in the source alone. Standard library only, a millisecond per file.

It follows what runs at init: the module's own statements, class bodies, defaults, and the functions and classes of the
same file that these call. What a call means stands in `calls`. It errs on the side of silence: what it cannot name, it
passes over; `snapruntime check` without --static sees the rest.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from snapruntime.values.findings import Finding, Place
from snapruntime.workflows.check.calls import KEEPS, MEANINGS, Meaning, hook_for
from snapruntime.workflows.check.places import UnreadableError, bad_suppressions, shown, source, suppress
from snapruntime.workflows.check.repairs import put_right
from snapruntime.workflows.check.rules import RULES

_Function = ast.FunctionDef | ast.AsyncFunctionDef
#: Values of one call to another, followed no deeper than this.
_MAX_DEPTH = 8


def check_file(path: str, task_root: str | None = None) -> list[Finding]:
    """The findings of one file; those that a comment suppresses are marked.

    Args:
        task_root: the folder of the function, which places are relative to, and outside of which nothing is read; by
            default places are relative to the current one, and the file may be anywhere.

    Raises:
        SyntaxError: it is no Python of this interpreter's version.
    """
    root = task_root or os.path.dirname(os.path.realpath(path))
    task_root = task_root or os.getcwd()
    name = ".".join(Path(shown(path, task_root)).with_suffix("").parts)
    try:
        tree = ast.parse(source(path, root), path)
        found = _Pass(tree, name.removesuffix(".__init__"), shown(path, task_root)).run()
    except UnreadableError as error:
        found = [_not_analysed(path, task_root, str(error))]
    except (RecursionError, MemoryError, ValueError) as error:  # As of the parser, and of `ast.unparse`.
        said = f"it cannot be followed ({str(error) or type(error).__name__})"
        found = [_not_analysed(path, task_root, said)]
    return suppress([*found, *bad_suppressions(path, task_root, root)], task_root, root)


def _not_analysed(path: str, task_root: str, why: str) -> Finding:
    where = shown(path, task_root)
    return Finding(RULES["SR091"], f"{where} was not analysed: {why}", place=Place(where, 1), found_by="static")


class _Scope:
    """A piece of code that runs at init: the module, or a function that it calls.

    Attributes:
        owner: what assignments in it belong to: the module, or a class of it.
        depth: how many calls away from the module's own statements.
        values: names whose value came from calls of interest: what these mean, and how they were written.
        returns: the same for what it returns.
        made_by: names -> the full name of the call that made them, and the line.
        globals: the names that it declares global.
    """

    def __init__(self, owner: str, depth: int) -> None:
        self.owner = owner
        self.depth = depth
        self.values: dict[str, list[tuple[Meaning, str]]] = {}
        self.returns: list[tuple[Meaning, str]] = []
        self.made_by: dict[str, tuple[str, int]] = {}
        self.globals: set[str] = set()


class _Pass:
    def __init__(self, tree: ast.Module, module: str, file: str) -> None:
        self.tree, self.module, self.file = tree, module, file
        self.names: dict[str, str] = {}
        self.functions: dict[str, _Function] = {}
        self.classes: dict[str, ast.ClassDef] = {}
        self.found: dict[tuple[str, int], Finding] = {}
        self.closed: set[str] = set()
        self.active: list[str] = []
        self.seeded: set[str] = set()
        self.generators: set[str] = set()
        self.instances: dict[str, str] = {}
        for node in ast.walk(tree):
            self._learn_names(node)
        for node in tree.body:
            if isinstance(node, _Function):
                self.functions[node.name] = node
            elif isinstance(node, ast.ClassDef):
                self.classes[node.name] = node
        self.put_right = put_right(tree, self.names, self.functions)

    def run(self) -> list[Finding]:
        self.scope = _Scope(self.module, 0)
        self._body(self.tree.body, self.scope)
        return [finding for finding in self.found.values() if not self._is_put_right(finding)]

    # What names stand for.

    def _learn_names(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                self.names[alias.asname or alias.name] = f"{node.module}.{alias.name}"

    def _full_name(self, node: ast.expr, scope: _Scope | None = None) -> str:
        """ "random.Random" for what a call calls; "NAME#method" where the object was made by NAME."""
        if isinstance(node, ast.Name):
            known = self.functions.get(node.id) or self.classes.get(node.id)
            return "" if known else self.names.get(node.id, node.id if node.id == "open" else "")
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and scope is not None:
                for made_by in (scope.made_by, self.scope.made_by):
                    if node.value.id in made_by:
                        return f"{made_by[node.value.id][0]}#{node.attr}"
            if isinstance(node.value, ast.Call):
                made = self._full_name(node.value.func, scope)
                return f"{made}#{node.attr}" if made else ""
            base = self._full_name(node.value)
            return f"{base}.{node.attr}" if base else ""
        return ""

    def _is_put_right(self, finding: Finding) -> bool:
        inside = finding.path.removeprefix(f"{self.module}.")
        right = self.put_right | self.closed
        right |= {self.instances[name] for name in self.put_right if name in self.instances}
        return any(inside == name or inside.startswith((f"{name}.", f"{name}[")) for name in right)

    # Code that runs at init.

    def _body(self, body: Sequence[ast.stmt], scope: _Scope) -> None:
        for node in body:
            self._statement(node, scope)

    def _statement(self, node: ast.stmt, scope: _Scope) -> None:
        if isinstance(node, _Function):
            self._definition(node, scope)
        elif isinstance(node, ast.ClassDef):
            self._class_body(node)
        elif isinstance(node, ast.If) and _is_main_guard(node.test):
            self._body(node.orelse, scope)
        elif isinstance(node, ast.Global):
            scope.globals.update(node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign, ast.AugAssign)):
            if node.value is not None:
                self._assign(node, node.value, scope)
        elif isinstance(node, ast.Return):
            if node.value is not None:
                scope.returns += self._values(node.value, scope)
        elif isinstance(node, ast.Expr):
            self._expression(node, scope)
        elif isinstance(node, ast.Delete):
            names = {ast.unparse(target) for target in node.targets}
            self.closed |= names if scope is self.scope else set()
        elif isinstance(node, (ast.With, ast.AsyncWith)):
            for item in node.items:
                for call in _calls(item.context_expr):
                    self._effects(call, scope, node.lineno)
            self._body(node.body, scope)
        else:
            for part in ("test", "iter"):
                if (expression := getattr(node, part, None)) is not None:
                    for call in _calls(expression):
                        self._effects(call, scope, node.lineno)
            for part in ("body", "orelse", "finalbody"):
                self._body(getattr(node, part, []), scope)
            for handler in getattr(node, "handlers", []):
                self._body(handler.body, scope)

    def _definition(self, node: _Function, scope: _Scope) -> None:
        """Defaults are made when the function is."""
        if scope is self.scope or scope.owner.startswith(self.module):
            for default in (*node.args.defaults, *node.args.kw_defaults):
                if default is not None:
                    for meaning, what in self._values(default, scope):
                        self._add(meaning, what, f"{self.module}.{node.name}", node.lineno)
        if scope.depth:
            # A closure keeps what it uses of the function around it.
            used = {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}
            scope.values[node.name] = [pair for name in used & scope.values.keys() for pair in scope.values[name]]

    def _class_body(self, node: ast.ClassDef) -> None:
        scope = _Scope(f"{self.module}.{node.name}", 0)
        self._body(node.body, scope)

    def _assign(self, node: ast.Assign | ast.AnnAssign | ast.AugAssign, value: ast.expr, scope: _Scope) -> None:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        values = self._values(value, scope, direct=True)
        made = self._full_name(value.func, scope) if isinstance(value, ast.Call) else ""
        for target in targets:
            name = ast.unparse(target)
            if isinstance(target, ast.Name) and isinstance(value, ast.Call) and ast.unparse(value.func) in self.classes:
                self.instances[name] = ast.unparse(value.func)
            if isinstance(target, ast.Name) and made:
                scope.made_by[name] = made, node.lineno
            local = scope.depth > 0 and isinstance(target, ast.Name) and name not in scope.globals
            if local:
                scope.values[name] = values
                continue
            owner = self.module if name in scope.globals or (scope.depth == 0 and scope is self.scope) else scope.owner
            for meaning, what in values:
                self._add(meaning, what, f"{owner}.{name.removeprefix('self.')}", node.lineno)
            if scope.depth == 0 and isinstance(target, ast.Name):
                scope.values[name] = [pair for pair in values if pair[0].rule in ("SR003", "SR004")]
                if any(meaning.rule == "SR001" for meaning, _ in values):
                    self.generators.add(name)

    def _expression(self, node: ast.Expr, scope: _Scope) -> None:
        call = node.value.value if isinstance(node.value, ast.Await) else node.value
        if not isinstance(call, ast.Call):
            return
        function = call.func
        if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name):
            if function.attr in ("close", "cache_clear", "quit", "terminate", "dispose", "cleanup", "wait", "join"):
                self.closed.add(function.value.id)
            if function.attr in KEEPS and (scope.depth == 0 or function.value.id not in scope.values):
                for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
                    for meaning, what in self._values(argument, scope):
                        self._add(meaning, what, f"{self.module}.{function.value.id}", node.lineno)
                return
        for inner in _calls(call):
            self._effects(inner, scope, node.lineno)

    # What expressions leave behind.

    def _values(self, node: ast.expr, scope: _Scope, *, direct: bool = False) -> list[tuple[Meaning, str]]:
        """What the value of an expression holds that a call of interest made."""
        if isinstance(node, ast.Name):
            return scope.values.get(node.id, []) if isinstance(node.ctx, ast.Load) else []
        if isinstance(node, (ast.Lambda, ast.GeneratorExp, ast.Compare)):
            return []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
            left, right = self._values(node.left, scope), self._values(node.right, scope)
            if _all_times(left) and _all_times(right):
                return []  # A duration.
            return left + right
        if isinstance(node, ast.Subscript) and self._is_secret_of_environment(node):
            return [(Meaning("SR011", "is a secret of the environment"), ast.unparse(node))]
        if isinstance(node, ast.Call):
            return self._call(node, scope, direct)
        found: list[tuple[Meaning, str]] = []
        for child in ast.iter_child_nodes(node):
            for expression in (child.value,) if isinstance(child, ast.keyword) else (child,):
                if isinstance(expression, ast.expr):
                    found += self._values(expression, scope)
                elif isinstance(expression, ast.comprehension):
                    found += self._values(expression.iter, scope)
        return found

    def _call(self, node: ast.Call, scope: _Scope, direct: bool) -> list[tuple[Meaning, str]]:
        self._effects(node, scope, node.lineno)
        name = self._full_name(node.func, scope)
        found = [
            (meaning, f"{name.replace('#', '().')}()")
            for meaning in MEANINGS.get(name, ())
            if meaning.kept and meaning.when(node) and (name != "open" or direct) and not self._is_seeded(name)
        ]
        if name in ("os.getenv", "os.environ.get") and self._is_secret_of_environment(node):
            found.append((Meaning("SR011", "is a secret of the environment"), ast.unparse(node)))
        if isinstance(node.func, ast.Name):
            found += self._called(node.func.id, scope)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            found += self._values(argument, scope)
        if any(meaning.rule == "SR013" for meaning, _ in found):  # TLS over a connection is one thing.
            found = [pair for pair in found if pair[0].rule != "SR005"]
        if isinstance(node.func, ast.Attribute) and node.func.attr not in ("close", "wait"):
            held = self._values(node.func.value, scope)  # Once: "a().b().c()" would else double with each call.
            made_here = isinstance(node.func.value, ast.Call) and any(meaning.rule == "SR001" for meaning, _ in held)
            if made_here or (isinstance(node.func.value, ast.Name) and node.func.value.id in self.generators):
                found.append((Meaning("SR003", "is different at each start"), f"{ast.unparse(node.func)}()"))
            # "uuid4().hex", "datetime.now().isoformat()": what is made of a value by its methods.
            found += [pair for pair in held if pair[0].rule in ("SR003", "SR004", "SR011", "SR014")]
        return found

    def _called(self, name: str, scope: _Scope) -> list[tuple[Meaning, str]]:
        """Follow a call of a function or class of the same file; returns what its result holds."""
        if name in self.active or len(self.active) >= _MAX_DEPTH:
            return []
        self.active.append(name)
        try:
            if name in self.functions:
                inner = _Scope(self.module, scope.depth + 1)
                function = self.functions[name]
                self._body(function.body, inner)
                if inner.returns and any("cache" in ast.unparse(decorator) for decorator in function.decorator_list):
                    for meaning, what in inner.returns:
                        if meaning.rule in ("SR003", "SR004"):
                            kept = Meaning("SR012", f"is kept by the cache of {name}()")
                            self._add(kept, what, f"{self.module}.{name}", function.lineno)
                return inner.returns
            if name in self.classes:
                for node in self.classes[name].body:
                    if isinstance(node, _Function) and node.name in ("__init__", "__post_init__"):
                        self._body(node.body, _Scope(f"{self.module}.{name}", scope.depth + 1))
        finally:
            self.active.pop()
        return []

    def _effects(self, node: ast.Call, scope: _Scope, line: int) -> None:
        """What a call does whether or not its result is kept."""
        name = self._full_name(node.func, scope)
        for meaning in MEANINGS.get(name, ()):
            if not meaning.kept and meaning.when(node):
                about = node.func.value if isinstance(node.func, ast.Attribute) else node.func
                path = f"{self.module}.{about.id}" if isinstance(about, ast.Name) else ""
                if meaning.rule == "SR005" and scope.depth and isinstance(about, ast.Name):
                    kept = Meaning(meaning.rule, meaning.what)  # Where the function keeps it.
                    scope.values.setdefault(about.id, []).append((kept, f"{name.replace('#', '().')}()"))
                    continue
                if meaning.rule == "SR005" and isinstance(about, ast.Name):
                    line = (scope.made_by.get(about.id) or self.scope.made_by[about.id])[1]
                elif meaning.rule == "SR016":
                    path = name.rpartition(".")[0]
                elif meaning.rule == "SR008":
                    path = self._target_of(about) or path
                self._add(meaning, f"{name.replace('#', '().')}()", path, line)
        if name in ("random.seed", "numpy.random.seed") and MEANINGS[name][0].when(node):
            self.seeded.add(name.removesuffix("seed"))
        if isinstance(node.func, ast.Name) and node.func.id in self.functions:
            self._called(node.func.id, scope)
        elif isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self":
            self._called_method(node.func.attr, scope)

    def _called_method(self, name: str, scope: _Scope) -> None:
        """Follow `self.name()` within a class of the file."""
        owner = scope.owner.removeprefix(f"{self.module}.")
        if owner in self.classes and f"{owner}.{name}" not in self.active and len(self.active) < _MAX_DEPTH:
            self.active.append(f"{owner}.{name}")
            for method in self.classes[owner].body:
                if isinstance(method, _Function) and method.name == name:
                    self._body(method.body, _Scope(scope.owner, scope.depth + 1))
            self.active.pop()

    def _target_of(self, thread: ast.expr) -> str:
        """The function that a thread runs, where it is named at its making."""
        if isinstance(thread, ast.Name):
            made = [
                node.value
                for node in ast.walk(self.tree)
                if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == thread.id
            ]
            thread = made[0] if made else thread
        if isinstance(thread, ast.Call):
            for keyword in thread.keywords:
                if keyword.arg == "target":
                    return f"{self.module}.{ast.unparse(keyword.value)}"
        return ""

    def _is_seeded(self, name: str) -> bool:
        return any(
            name.startswith(prefix) and name.count(".") == prefix.count(".") and name != "random.Random"
            for prefix in self.seeded
        )

    def _is_secret_of_environment(self, node: ast.Subscript | ast.Call) -> bool:
        if isinstance(node, ast.Subscript) and self._full_name(node.value) != "os.environ":
            return False
        key = node.slice if isinstance(node, ast.Subscript) else node.args[0] if node.args else None
        return isinstance(key, ast.Constant) and key.value in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")

    def _add(self, meaning: Meaning, what: str, path: str, line: int) -> None:
        place, hook = Place(self.file, line), hook_for(meaning.rule, what)
        finding = Finding(RULES[meaning.rule], f"{what} {meaning.what}", path, place, found_by="static", special=hook)
        self.found.setdefault((meaning.rule, line), finding)


def _all_times(values: Sequence[tuple[Meaning, str]]) -> bool:
    return bool(values) and all(meaning.rule == "SR004" for meaning, _ in values)


def _calls(node: ast.expr) -> Iterator[ast.Call]:
    """The calls in an expression, but not those that a lambda will make later."""
    if isinstance(node, ast.Lambda):
        return
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _calls(child)
        elif isinstance(child, ast.keyword):
            yield from _calls(child.value)


def _is_main_guard(test: ast.expr) -> bool:
    return isinstance(test, ast.Compare) and "__name__" in ast.unparse(test) and "__main__" in ast.unparse(test)
