"""Reports of `snapruntime check`: as text for people, as JSON, and as SARIF 2.1.0 for code scanning."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from rich.console import Group, RenderableType
from rich.text import Text

from snapruntime.values.findings import SEVERITIES, Finding, Place, Report
from snapruntime.workflows.check.rules import RULES

_COLOURS = {"error": "bold red", "warning": "yellow", "note": "cyan"}
_LEVELS = {"error": "error", "warning": "warning", "note": "note"}
_SARIF = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def as_text(report: Report) -> RenderableType:
    """Each finding with its line, what it means and what to do; said once per rule."""
    parts: list[RenderableType] = []
    explained: set[str] = set()
    advised: set[tuple[str, str]] = set()
    for finding in report.findings:
        if not finding.counts:
            continue
        rule = finding.rule
        head = Text(f"{_where(finding, report)}: ", style="bold")
        head.append(rule.severity, style=_COLOURS[rule.severity])
        head.append(f" {rule.id} {rule.name}", style="not bold")
        parts.append(head)
        parts.append(_indented(finding.message))
        if rule.id not in explained:
            explained.add(rule.id)
            parts.append(_indented(rule.why, "dim"))
        if (rule.id, _mend(finding)) not in advised:
            advised.add((rule.id, _mend(finding)))
            parts.append(_indented(f"→ {_mend(finding)}", "cyan"))
    clean = not report.fails("note") and not report.handler_error
    parts.append(Text(_summary(report), style="green" if clean else "bold"))
    if error := report.handler_error:
        late = error.startswith("Sandbox.Timedout")
        instead = "more time: --timeout SECONDS" if late else "an --event that it can answer"
        failed = f"The handler failed in every process ({error}), so that what it does was not compared."
        said = f"{failed} Give it {instead}."
        parts.append(Text(said, style="bold red"))
    return Group(*parts)


def _indented(text: str, style: str = "") -> Text:
    return Text("\n".join(f"    {line}" for line in text.splitlines()), style=style)


def _where(finding: Finding, report: Report) -> str:
    if finding.place is None:
        return finding.path or report.handler
    return f"{_file(finding.place, report)}:{finding.place.line}"


def _file(place: Place, report: Report) -> str:
    """As an editor finds it: from the current folder; several handlers may well have the same name in theirs."""
    path = os.path.join(report.task_root, place.file)
    near = os.path.relpath(path)
    return path if near.startswith("..") else near


def _mend(finding: Finding) -> str:
    hook = f" The ready-made hook does it: --hook {finding.hook}" if finding.hook else ""
    return finding.mend + hook


def _summary(report: Report) -> str:
    counts = [(len(report.of(severity)), severity) for severity in SEVERITIES]
    text = (
        ", ".join(f"{count} {severity}{'s' * (count != 1)}" for count, severity in counts if count) or "nothing found"
    )
    if suppressed := sum(not finding.counts for finding in report.findings):
        text += f"; {suppressed} suppressed"
    figures = report.figures
    if "first_call_ms" in figures:
        text += (
            f" ({figures['runs']} copies and {figures['runs']} cold starts; init {figures['init_ms']:.0f} ms, restore "
            f"{figures['restore_ms']:.0f} ms, first call {figures['first_call_ms']:.1f} ms, which wrote to "
            f"{figures.get('first_call_dirtied_kb', 0) / 1024:.1f} MB)"
        )
    return f"{report.handler}: {text}"


def as_json(reports: Sequence[Report], *, failed: bool) -> dict[str, Any]:
    """One document for all that was checked."""
    return {
        "ok": not failed,
        "reports": [
            {
                "handler": report.handler,
                "findings": [_finding_json(finding, report) for finding in report.findings],
                "figures": dict(report.figures),
            }
            for report in reports
        ],
    }


def _finding_json(finding: Finding, report: Report) -> dict[str, Any]:
    rule, place = finding.rule, finding.place
    return {
        "rule": rule.id,
        "name": rule.name,
        "severity": rule.severity,
        "message": finding.message,
        "path": finding.path or None,
        "file": _file(place, report) if place else None,
        "line": place.line if place else None,
        "found_by": finding.found_by,
        "why": rule.why,
        "mend": finding.mend,
        "hook": finding.hook or None,
        "suppressed": finding.suppressed,
    }


def as_sarif(reports: Sequence[Report]) -> dict[str, Any]:
    """SARIF 2.1.0, as code scanning takes it: paths relative to the current folder."""
    ids = list(RULES)
    results = [_result(finding, report, ids) for report in reports for finding in report.findings]
    driver = {
        "name": "snapruntime check",
        "version": version("snapruntime"),
        "rules": [
            {
                "id": rule.id,
                "name": rule.name,
                "shortDescription": {"text": rule.title},
                "fullDescription": {"text": rule.why},
                "help": {"text": rule.mend + (f" Ready-made hook: {rule.hook}." if rule.hook else "")},
                "defaultConfiguration": {"level": _LEVELS[rule.severity]},
            }
            for rule in RULES.values()
        ],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"SRCROOT": {"uri": f"file://{quote(os.getcwd())}/"}},
        "results": results,
    }
    return {"$schema": _SARIF, "version": "2.1.0", "runs": [run]}


def _result(finding: Finding, report: Report, ids: list[str]) -> dict[str, Any]:
    file = finding.place.file if finding.place else ""
    # What stays the same when lines above it come and go.
    same = hashlib.sha256("\0".join([finding.rule.id, file, finding.path]).encode()).hexdigest()[:32]
    result: dict[str, Any] = {
        "ruleId": finding.rule.id,
        "ruleIndex": ids.index(finding.rule.id),
        "level": _LEVELS[finding.rule.severity],
        "message": {"text": f"{finding.message}. {finding.rule.why} {_mend(finding)}"},
        "partialFingerprints": {"snapruntimeFinding/v1": same},
        "properties": {"path": finding.path, "foundBy": finding.found_by, "handler": report.handler},
    }
    if finding.place:
        path = os.path.relpath(os.path.join(report.task_root, finding.place.file))
        result["locations"] = [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(path.replace(os.sep, "/")), "uriBaseId": "SRCROOT"},
                    "region": {"startLine": finding.place.line},
                }
            }
        ]
    if finding.suppressed is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.suppressed}]
    return result
