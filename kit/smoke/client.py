"""Stand for a program that zygote.py runs in a fork: python -IS client.py FOLDER REAL PROGRAM ARGUMENT...

It hands PROGRAM (accelerate, torchrun or python), its arguments and what a process inherits to the zygote that listens
in FOLDER, and ends as that run ends. Where the zygote would not do the same as the program REAL, it becomes REAL. It
starts in a moment, and so imports next to nothing.
"""

import array
import marshal
import os
import resource
import signal
import socket
import sys

folder, real, program, *words = sys.argv[1:]
here = os.open(".", os.O_RDONLY)
umask = os.umask(0)
os.umask(umask)
request = marshal.dumps(
    {
        "words": [program, *words],
        "cwd": os.getcwd(),  # noqa: PTH109
        "umask": umask,
        "files": resource.getrlimit(resource.RLIMIT_NOFILE),
        "environment": dict(os.environb),
    }
)
with socket.socket(socket.AF_UNIX) as zygote:
    os.chdir(folder)  # a socket's address has room for 107 bytes, a path may be longer
    try:
        zygote.connect("socket")
    except OSError as error:
        sys.exit(f"{program}: error: no zygote in {folder}: {error}")
    os.fchdir(here)
    streams = array.array("i", [0, 1, 2])
    data = len(request).to_bytes(8, "big") + request
    sent = zygote.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    if sent < len(data):  # sending nothing fails as well where the zygote has heard all, and has answered
        zygote.sendall(data[sent:])
    answer = zygote.recv(16)
if answer == b"no":
    os.execv(real, [real, *words])
if not answer:
    sys.exit(f"{program}: error: its process has gone without a word")
status = int(answer)
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status not in (signal.SIGKILL, signal.SIGSTOP) else None
    os.kill(os.getpid(), -status)
sys.exit(status & 0xFF)
