"""What can go wrong, and how a person hears of it: expected errors exit 1, a wrong command line 2, an interrupt
130, a bug 3 with a log."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

EXPECTED, USAGE, BUG, INTERRUPTED = 1, 2, 3, 130

# What a file system may refuse through no fault of kit's.
_NOT_OURS = {
    *(errno.EACCES, errno.EDQUOT, errno.EEXIST, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ELOOP),
    *(errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS),
}


class KitError(Exception):
    """An error the user can do something about.

    ``message`` says what is wrong and where (``file:line`` when there is one); ``hint`` is the next thing to type.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


def last_line(said: str) -> str:
    """The last line that a program said."""
    return (said.strip().splitlines() or ["it said nothing"])[-1]


def _write_log(text: str, cache: Callable[[], Path]) -> str:
    """Keep the traceback of a bug where the user can find it; fall back to nothing rather than fail twice."""
    try:
        directory = cache()
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / "kit.log"
        log.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (KitError, OSError):
        return "(the log could not be written)"
    return str(log)


def _what_to_do(error: OSError, cache: Callable[[], Path]) -> str:
    cached = isinstance(error.filename, str) and Path(error.filename).is_relative_to(cache())
    elsewhere = ", or set KIT_CACHE to another folder" if cached else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full: make room{elsewhere}, then try again"
    return f"give access to it{elsewhere}, then try again"


@contextlib.contextmanager
def handler(cache: Callable[[], Path]) -> Iterator[None]:
    """Turn any exception into one clear line and an exit status; ``cache`` says where kit's cache is, and its log."""
    from kit import output

    try:
        yield
    except KitError as error:
        output.error(error.message, error.hint)
        raise SystemExit(EXPECTED) from None
    except KeyboardInterrupt:
        output.error("interrupted", "nothing was left half-written; run the same command again")
        raise SystemExit(INTERRUPTED) from None
    except BrokenPipeError:
        # The reader of our output went away (`kit diff | head`): not an error, and nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(EXPECTED) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NOT_OURS:
            output.error(f"{error.filename or 'the system'}: {error.strerror}", _what_to_do(error, cache))
            raise SystemExit(EXPECTED) from None
        from kit import __version__

        details = "".join(traceback.format_exception(error))
        log = _write_log(
            f"kit {__version__}, Python {sys.version}, {platform.platform()}\n{sys.argv}\n\n{details}", cache
        )
        hint = f"this is a bug in kit; please report it with {log}"
        output.error(f"unexpected {type(error).__name__}: {error}", hint)
        raise SystemExit(BUG) from None
