"""Everything a person or a pipe sees. Results go to stdout, progress and errors to stderr."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

LONGEST = 2000  # characters of a message


def line(text: str = "") -> None:
    """A result line."""
    print(text)


def note(text: str) -> None:
    """Something worth knowing that is not the result."""
    print(text, file=sys.stderr)


def error(message: str, hint: str = "") -> None:
    """One clear line, and the next thing to type beneath it; what a file holds may be long, and is cut."""
    shown = message if len(message) <= LONGEST else f"{message[:LONGEST]}…"
    print(f"kit: error: {shown}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)


def place(path: Path) -> str:
    """A path as one would type it here: relative below the current folder."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def day(seconds: int) -> str:
    """A time in seconds since 1970 as its date in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).strftime("%Y-%m-%d")


def as_json(data: Any) -> None:
    """The same report for a program; keys keep their order."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def table(rows: Sequence[tuple[str, ...]], indent: str = "  ") -> None:
    """Columns as wide as their widest cell; the last one runs free."""
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print((indent + "  ".join([*cells, row[-1]])).rstrip())


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[float, float], None]]:
    """A progress bar for work that may take over a second; it appears after one second, on a terminal only.

    Yields ``update(done, total)``. rich is imported only when the bar is about to show.
    """
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    import time

    start = time.monotonic()
    bar: Any = None
    task: Any = None

    def update(done: float, total: float) -> None:
        nonlocal bar, task
        if bar is None:
            if time.monotonic() - start < 1:
                return
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn(title), BarColumn(), TextColumn("{task.percentage:>3.0f}%"), TimeElapsedColumn())
            bar = Progress(*columns, console=Console(stderr=True), transient=True)
            bar.start()
            task = bar.add_task(title, total=total)
        bar.update(task, completed=done, total=total)

    try:
        yield update
    finally:
        if bar is not None:
            bar.stop()
