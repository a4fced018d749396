"""The scans of several processes, compared: which objects each copy has to itself, and which are one and the same."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from snapruntime.values.findings import Finding, Place
from snapruntime.workflows.check.places import assignment, shown
from snapruntime.workflows.check.rules import RULES

Item = dict[str, Any]
#: No hook can renew what every copy is given: the environment of init.
_ADVICE = "Serve them by --credentials, or give each copy its own by --restore-env, in place of --env."
_OWN, _CONSTANT, _DUPLICATED, _UNKNOWN = "own", "constant", "duplicated", "unknown"
#: Values that are unique by their nature: where no cold start has such an object, it still is a finding.
_ALWAYS_UNIQUE = ("uuid.UUID",)


@dataclass(slots=True)
class Judgement:
    """What the scans show.

    Attributes:
        findings: what is wrong.
        safe: lines whose values were seen to be constant, or each copy's own: suspicions about them are unfounded.
        kept: where objects are made that each copy has as init left them.
        digests: digest of a duplicated value -> the object that holds it, and its line.
    """

    findings: list[Finding] = field(default_factory=list)
    safe: set[Place] = field(default_factory=set)
    kept: set[Place] = field(default_factory=set)
    digests: dict[str, tuple[str, Place | None]] = field(default_factory=dict)


def digest(value: object) -> str:
    """The fingerprint that the scan gives to a value (`snapruntime.worker.check.kinds.digest`)."""
    return hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def judge(copies: Sequence[dict[str, Any]], colds: Sequence[dict[str, Any]], task_root: str) -> Judgement:
    """Compare the scans of copies, after their after-restore hooks, with those of cold starts."""
    judgement = Judgement()
    bad: set[Place] = set()
    first, *others = [_by_path(scan) for scan in copies]
    cold = [_by_path(scan) for scan in colds]
    for path, item in first.items():
        beside = [scan.get(path) for scan in others]
        if any(other is None or other["kind"] != item["kind"] for other in beside):
            continue  # Each copy has another there: it was made after the restore.
        place = _place(item, task_root)
        if "digest" not in item:
            if item.get("alive") and place is not None:
                judgement.safe.add(place)
            judgement.findings += _resource(item, [scan.get(path) for scan in cold], place)
            continue
        verdict = _verdict(item, [*filter(None, beside)], [scan.get(path) for scan in cold])
        finding = _value(item, verdict, place)
        if finding is not None:
            judgement.findings.append(finding)
        if verdict == _DUPLICATED:
            judgement.digests.setdefault(item["digest"], (path, place))
        if place is not None:
            # Today's date is the same at two cold starts, and still not what it will be.
            clear = verdict == _OWN or (verdict == _CONSTANT and item["kind"] != "time")
            (judgement.safe if clear else bad).add(place)
            if verdict != _OWN:
                judgement.kept.add(place)  # A day as a text, or a year, is such a constant too.
    judgement.safe -= bad
    judgement.findings += _shared(copies, colds)
    return judgement


def _by_path(scan: dict[str, Any]) -> dict[str, Item]:
    found: dict[str, Item] = {}
    for item in scan["items"]:
        found.setdefault(item["path"], item)
    return found


def _verdict(item: Item, copies: Sequence[Item], colds: Sequence[Item | None]) -> str:
    if any(other["digest"] != item["digest"] for other in copies):
        return _OWN
    there = [other["digest"] for other in colds if other is not None and other["kind"] == item["kind"]]
    if len(set(there)) > 1:
        return _DUPLICATED
    return _CONSTANT if there and len(there) == len(colds) else _UNKNOWN


def _value(item: Item, verdict: str, place: Place | None) -> Finding | None:
    """The finding about an object with a value or a state, if it is one."""
    path, kind = item["path"], item["kind"]
    if item.get("secret"):
        return Finding(RULES["SR011"], f"{path} keeps the environment's {item['secret']}", path, place)
    if kind == "generator":
        if verdict == _CONSTANT:
            return Finding(
                RULES["SR002"], f"{path} ({item['type']}) has the same state at each cold start", path, place
            )
        if verdict != _OWN:
            message = f"{path} ({item['type']}) has one state in all copies"
            return Finding(RULES["SR001"], message, path, place, special=item["hook"])
        return None
    unknown = verdict == _UNKNOWN and item["type"] in _ALWAYS_UNIQUE
    if (verdict != _DUPLICATED and not unknown) or kind == "number":
        return None
    if item.get("temporary"):
        return Finding(RULES["SR007"], f"{path} names one temporary file or folder in all copies", path, place)
    if item["cached"]:
        return Finding(RULES["SR012"], f"{path} keeps a value that each cold start has another of", path, place)
    if kind == "time":
        return Finding(
            RULES["SR004"], f"{path} ({item['type']}) is the time of the snapshot in all copies", path, place
        )
    message = f"{path} ({item['type']}) is one value in all copies, and another at each cold start"
    return Finding(RULES["SR003"], message, path, place)


def _resource(item: Item, colds: Sequence[Item | None], place: Place | None) -> Iterator[Finding]:
    path, kind = item["path"], item["kind"]
    if kind in ("connection", "tls"):
        lived = any(other is None or other.get("alive", True) for other in colds)
        if not item.get("alive", False) and lived and not item["heals"]:
            rule = "SR015" if item["pooled"] else "SR013" if kind == "tls" else "SR005"
            message = f"{path}: the {item.get('what', kind)} is dead in the copies"
            yield Finding(RULES[rule], message, path, place, special=item["hook"])
        return
    words = {
        "file": ("SR006", f"{path} has {item.get('name')} open"),
        "temporary": ("SR007", f"{path} is the temporary {item.get('name')} in all copies"),
        "thread": ("SR008", f"the {path} runs {item.get('function')}()"),
        "child": ("SR009", path if path.startswith("child") else f"{path} is a child process"),
        "loop": ("SR010", f"{path} is an event loop with {item.get('scheduled')} timers"),
        "credentials": ("SR011", f"{path} holds credentials that are not refreshed (from: {item.get('method')})"),
        "environment": ("SR011", f"{path} is in the snapshot"),
    }
    if kind in words and not (kind == "thread" and place is None):
        rule, message = words[kind]
        special = "boto3" if kind == "credentials" and item.get("method") == "env" else ""
        advice = _ADVICE if kind == "environment" else ""
        about = str(item.get("function", path))
        yield Finding(RULES[rule], message, about, place, special=special, advice=advice)


def _shared(copies: Sequence[dict[str, Any]], colds: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    for module, state in copies[0]["shared"].items():
        states = {scan["shared"].get(module) for scan in copies}
        starts = {scan["shared"].get(module) for scan in colds}
        if len(states) == 1 and len(starts) > 1:
            yield Finding(RULES["SR001"], f"the generator of the module {module} has one state in all copies", module)
        elif len(starts) == 1 and None not in starts and state not in starts:
            yield Finding(
                RULES["SR016"], f"{module} was seeded with a fixed value, and is reseeded in each copy", module
            )


def _place(item: Item, task_root: str) -> Place | None:
    if item.get("line"):
        return Place(shown(item["source"][0], task_root), item["line"])
    place = assignment(item["source"], task_root) if item["source"] else None
    if place is None and item.get("place"):
        file, _, line = str(item["place"]).split(",")[0].rpartition(":")
        place = Place(os.path.normpath(file), int(line)) if re.fullmatch("[0-9]{1,7}", line) else None
    return place
