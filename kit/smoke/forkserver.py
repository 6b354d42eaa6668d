"""The fork server of a reference environment: what its programs import is imported once, each run forked from that.

A run's command is what it was: `bash launch.sh …`, `accelerate launch …`, `torchrun …`, `python train.py …`. First on
its PATH are small clients of these names (client.py), which ask the zygote (zygote.py) for a fork with their arguments,
environment and standard streams. Whatever else they are asked, they are the environment's own programs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.errors import KitError, last_line
from kit.smoke import process

HERE = Path(__file__).parent

# What a client asks the zygote for, by its arguments; the environment's own program does the rest.
_ASKED = {
    "accelerate": '[ "${1-}" = launch ]',
    "torchrun": "true",
    "python": 'case "${1-}:${2-}" in -m:torch.distributed.run | [!-]*.py:*) ;; *) false ;; esac',
}

# So that importing numpy, pyarrow and torch's compiler starts no thread, which forks would lack.
_NO_THREADS = {
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}


@dataclass(frozen=True)
class Server:
    """A zygote that is starting or runs. ``folder`` holds its socket, its log and, in bin, its clients."""

    folder: Path
    zygote: subprocess.Popen[bytes]

    @property
    def python(self) -> Path:
        """The client that stands for the environment's Python: it runs scripts in forks of the zygote."""
        return self.folder / "bin" / "python"

    def run(
        self, command: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path, limit: float
    ) -> process.Done:
        """Run a command as `process.run` does, with the clients first on its PATH. A file that the variable
        KIT_INSTRUMENT names is executed before every script that is forked: in each rank, and in a launch script's own
        `python check.py`, whose output the launch script may read. Raises KitError where the zygote has ended."""
        self.wait()
        path = f"{self.folder / 'bin'}{os.pathsep}{environment.get('PATH', os.defpath)}"
        return process.run(command, cwd, {**environment, "PATH": path}, log, limit)

    def wait(self) -> None:
        """Wait until the imports are done. Raises KitError, with the zygote's last line, where it has ended."""
        while not (self.folder / "socket").exists():
            if self.zygote.poll() is not None:
                said = (self.folder / "log").read_text("utf-8", "replace")
                what = f"the smoke run's imports failed: {last_line(said)}"
                raise KitError(what, "mend `imports` under [smoke] in the recipe; without, every step imports anew")
            time.sleep(0.05)


@contextlib.contextmanager
def serve(programs: Path, imports: Sequence[str], environment: Mapping[str, str], folder: Path) -> Iterator[Server]:
    """Start a zygote of the environment whose programs are in ``programs`` (its bin), with these modules imported and
    these variables; every fork of it is gone afterwards. ``folder`` is made."""
    (folder / "bin").mkdir(parents=True)
    for name in ("accelerate", "torchrun", "python", "python3"):
        if (programs / name).exists():
            _write_client(folder, programs, name)
    command = [str(programs / "python"), str(HERE / "zygote.py"), str(folder), *imports]
    with (folder / "log").open("wb") as log:
        zygote = subprocess.Popen(
            command,
            env={**environment, **_NO_THREADS, **process.mark()},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Server(folder, zygote)
    finally:
        if not (folder / "socket").exists():
            zygote.kill()
        zygote.communicate()  # its standard input ends, and so does it


def _write_client(folder: Path, programs: Path, name: str) -> None:
    program = name.removesuffix("3")
    real, python = shlex.quote(str(programs / name)), shlex.quote(str(programs / "python"))
    client = shlex.join([str(HERE / "client.py"), str(folder)])
    text = f'#!/bin/sh\n{_ASKED[program]} || exec {real} "$@"\nexec {python} -IS {client} {real} {program} "$@"\n'
    (folder / "bin" / name).write_text(text, encoding="utf-8")
    (folder / "bin" / name).chmod(0o755)
