"""What a name in a script is, not how it is spelt: `kit fix` on scripts that are not of upstream's own shape.

Each is the shape of something in public training scripts, and each fix mends it rightly, leaves it alone, refuses with
the cause and a way out, or says that it looks like a fault in a form that it does not know.
"""

from __future__ import annotations

import ast
import textwrap
from dataclasses import dataclass
from typing import Any

import pytest

from kit import fixes
from kit.commands.fix import File
from kit.fixes import Outcome
from kit.mend import looks_like, mend, options_for

HEAD = "import os\nimport shutil\nimport torch\nfrom accelerate import Accelerator\n"
MADE = "    accelerator = Accelerator()\n"
OPEN = "accelerator.is_main_process or accelerator.distributed_type == DistributedType.DEEPSPEED"


@dataclass(frozen=True)
class Given:
    """A script, what one fix makes of it ("": it is left alone), what it refuses with or says that it looks like."""

    fix: str
    text: str
    made: tuple[str, ...] = ()  # each is in the result, on lines of its own
    gone: tuple[str, ...] = ()  # none of them is
    refuses: str = ""
    looks_like: str = ""
    line: int = 0


def text_of(text: str) -> str:
    return textwrap.dedent(text).removeprefix("\n")


def left(id: str, fix: str, text: str) -> Any:
    return pytest.param(Given(fix, text_of(text)), id=f"{fix}: left alone: {id}")


def mended(id: str, fix: str, text: str, *made: str, gone: tuple[str, ...] = ()) -> Any:
    wanted = tuple(text_of(each).rstrip("\n") for each in made)
    return pytest.param(Given(fix, text_of(text), wanted, gone), id=f"{fix}: mended: {id}")


def refused(id: str, fix: str, line: int, reason: str, text: str, beside: str = "") -> Any:
    """``beside``: what another line looks like."""
    return pytest.param(Given(fix, text_of(text), (), (), reason, beside, line), id=f"{fix}: refused: {id}")


def looks(id: str, fix: str, line: int, what: str, text: str) -> Any:
    return pytest.param(Given(fix, text_of(text), looks_like=what, line=line), id=f"{fix}: looks like: {id}")


def tried(fix: str, text: str) -> tuple[File, str]:
    """What comes of one fix, and of those it brings."""
    chosen = options_for(fixes.with_brought([fix]), "npu")
    findings, after = mend(text.encode(), "train.py", chosen)
    signs = looks_like(text.encode(), after, "train.py", chosen, findings)
    return File("train.py", tuple(findings), tuple(signs)), after.decode()


def holds(text: str, part: str) -> bool:
    """Whether some lines of a script are ``part``, however deep."""
    lines, wanted = text.splitlines(), textwrap.dedent(part).splitlines()
    if len(wanted) == 1:
        return part.strip() in text
    windows = ("\n".join(lines[at : at + len(wanted)]) for at in range(len(lines)))
    return any(textwrap.dedent(window).splitlines() == wanted for window in windows)


def check(given: Given) -> None:
    report, after = tried(given.fix, given.text)
    found = {each.fix: each for each in report.findings}[given.fix]
    signs = [each for each in report.looks_like if each.fix == given.fix]
    ast.parse(after)
    if given.made:
        assert (found.outcome, found.reason) == (Outcome.applied, "")
        for part in given.made:
            assert holds(after, part), after
        assert not any(part in after for part in given.gone), after
        again, same = tried(given.fix, after)
        assert same == after and not any(each.outcome is Outcome.conflict for each in again.findings)
        return
    assert after == given.text
    if given.refuses:
        assert (found.outcome, found.lines) == (Outcome.conflict, (given.line,)), found
        assert given.refuses in found.reason
        assert "postcondition" not in found.reason and "made 0" not in found.reason
    else:
        assert found.outcome in (Outcome.gone, Outcome.satisfied), found
    if given.refuses and given.looks_like:
        assert [given.looks_like in each.what for each in signs] == [True], signs
    elif given.looks_like:
        assert [(each.line, given.looks_like in each.what) for each in signs] == [(given.line, True)], signs
    else:
        assert not signs
