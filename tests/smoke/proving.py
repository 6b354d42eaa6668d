"""`kit verify --smoke`, as the tests of a recipe's proof run it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.commands import verify


def prove(place: Path, capsys: pytest.CaptureFixture[str], **options: Any) -> tuple[int, dict[str, Any]]:
    """`kit verify PLACE --json` with options; its exit status and report."""
    given = {"smoke": False, "parity": False, "red": False, "steps": (), "cases": (), "fixes": ()}
    given |= {"report": "", "as_json": True, **options}
    status = verify.run((str(place),), **given)
    return status, json.loads(capsys.readouterr().out)[0]


def failed(report: dict[str, Any]) -> list[str]:
    return [
        f"{check['level']}: {check['name']}: {check['detail']}" for check in report["checks"] if check["ok"] is False
    ]
