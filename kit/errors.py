"""What can go wrong, and how a person hears of it: expected errors exit 1, an interrupt 130, a bug 3 with a log."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import traceback
from collections.abc import Iterator

EXPECTED, BUG, INTERRUPTED = 1, 3, 130


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


def _write_log(text: str) -> str:
    """Keep the traceback of a bug where the user can find it; fall back to nothing rather than fail twice."""
    from kit import store

    try:
        directory = store.cache_dir()
        directory.mkdir(parents=True, exist_ok=True)
        log = directory / "kit.log"
        log.write_text(text, encoding="utf-8")
    except OSError:
        return "(the log could not be written)"
    return str(log)


@contextlib.contextmanager
def handler() -> Iterator[None]:
    """Turn any exception into one clear line and an exit status."""
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
        from kit import __version__

        details = "".join(traceback.format_exception(error))
        log = _write_log(f"kit {__version__}, Python {sys.version}, {platform.platform()}\n{sys.argv}\n\n{details}")
        hint = f"this is a bug in kit; please report it with {log}"
        output.error(f"unexpected {type(error).__name__}: {error}", hint)
        raise SystemExit(BUG) from None
