"""Run a Python program in a fork of this process, which has the standard library imported: most of a short run."""

from __future__ import annotations

import importlib
import io
import os
import runpy
import signal
import sys
import sysconfig
import tempfile
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess

LIMIT = 60  # seconds


def run(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> CompletedProcess[str]:
    """What `python -S FOLDER...` does under a UTF-8 locale, where the folder holds a program: its exit status, negative
    for a signal, and what it printed. Past LIMIT it is ended, by SIGALRM."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of threads: those of pytest-xdist a fork can do without
            pid = os.fork()
        if not pid:
            status = 1
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                status = _become(words, cwd, env)
            finally:
                os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        for file in (out, err):
            file.seek(0)
        return CompletedProcess(list(words), status, out.read().decode(), err.read().decode())


def _become(words: Sequence[str], cwd: Path, env: Mapping[str, str]) -> int:
    """Run the program here, with nothing imported but the standard library. Returns its exit status."""
    signal.alarm(LIMIT)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", errors, line_buffering=number == 2)
        for number, errors in ((1, "surrogateescape"), (2, "backslashreplace"))
    )
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    library = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}
    library |= {str(Path(path, "lib-dynload")) for path in library}
    sys.path[:] = [*env.get("PYTHONPATH", "").split(os.pathsep), *(path for path in sys.path if path in library)]
    for name in list(sys.modules):
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "__main__"}:
            del sys.modules[name]
    importlib.invalidate_caches()
    sys.argv, sys.pycache_prefix = list(words), env.get("PYTHONPYCACHEPREFIX")
    try:
        runpy.run_path(words[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status
