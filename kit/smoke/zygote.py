"""Import once, fork every run: python zygote.py FOLDER NAME...

It imports what the names say, listens on FOLDER/socket, and forks for each program that `client.py` stands for: most of
a short run is importing torch, twice. It runs in a recipe's reference environment, on Python 3.8 or newer, and ends
when its standard input does.

`accelerate launch` and `torchrun` are the installed ones, run in a fork of this process: they read their options and
configs, and make the environment. Only what would start Python scripts on this machine is replaced by forks; anything
else (several machines, MPI, a TPU) they start as ever.

To a script a fork is a fresh interpreter: arguments, working folder, umask, open files, environment, sys.path,
`sitecustomize`, standard streams, random numbers, threads. Not so: what the modules read from the environment as they
were imported (where that differs, the client runs the real program: READ_AT_IMPORT); numpy's linear algebra has one
thread; and all forks hash strings alike, so that an order of a set which differs from rank to rank is not seen.
"""

import array
import builtins
import contextlib
import ctypes
import faulthandler
import gc
import importlib
import importlib.machinery
import marshal
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
import types
from pathlib import Path

# Read as they are imported by huggingface_hub, transformers, datasets, the stand-ins of device packages; by Python.
READ_AT_IMPORT = (
    *("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "ASCEND_RT_VISIBLE_DEVICES"),
    *("KIT_STANDIN_DEVICES", "KIT_STANDIN_REPLACES", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "PYTHONWARNINGS"),
)
READ_IF_SET = ("DS_ACCELERATOR",)  # what it is where it is not set, these find out for themselves
MARK = "KIT_SMOKE"  # environment variable: kit/smoke/process.py ends every process whose environment has its value
INSTRUMENT = "KIT_INSTRUMENT"  # environment variable: a Python file that each rank executes before its script
GRACE = 5.0  # seconds that ranks have to end in, after another one failed
TORCH_SEED = 67280421310721  # of a fresh process: c10/core/GeneratorImpl.h, default_rng_seed_val

started = dict(os.environ)


class Become(BaseException):
    """Raised in a fork, through whatever launcher forked it: run the script words[0]."""

    def __init__(self, words, environment, unbuffered):
        self.words, self.environment, self.unbuffered = words, environment, unbuffered


def main(folder, *names):
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    mark = getenv(MARK.encode())  # its place in the environment this process began with: /proc shows it of a fork, too
    for name in names:
        load(name)
    threads = list(Path("/proc/self/task").iterdir())
    if len(threads) > 1:
        sys.exit(f"{len(threads)} threads run once {', '.join(names)} are imported, which forks would lack")
    extra = pythonpath(started)
    base = [entry for entry in sys.path[1:] if entry not in extra]
    gc.collect()
    gc.freeze()
    os.chdir(folder)  # a socket's address has room for 107 bytes, a path may be longer
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("starting")
    listener.listen(16)
    Path("starting").rename("socket")
    jobs = set()
    while True:
        ready, _, _ = select.select([listener, 0], [], [], 0.2)
        jobs = {job for job in jobs if not os.waitpid(job, os.WNOHANG)[0]}
        if 0 in ready:
            kill(jobs, signal.SIGKILL, os.killpg)
            os._exit(0)
        if listener in ready:
            connection = listener.accept()[0]
            request, streams = receive(connection)
            if request and differs(request["environment"]):
                connection.sendall(b"no")
            elif request:
                job = os.fork()
                if job == 0:
                    listener.close()
                    rank = serve(connection, request, streams, mark)
                    connection.close()
                    return become(rank, base)
                jobs.add(job)
            for stream in streams:
                os.close(stream)
            connection.close()


def load(name):
    """Import a module, or what a module has under a name (`diffusers.UNet2DConditionModel`: it imports lazily)."""
    top, *parts = name.split(".")
    found = importlib.import_module(top)
    for count, part in enumerate(parts, 1):
        found = getattr(found, part, None) or importlib.import_module(".".join([top, *parts[:count]]))


def pythonpath(environment):
    return [str(Path(entry).absolute()) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]


def receive(connection):
    """A client's request, {words, cwd, umask, files, environment}, and its standard streams; None where it left."""
    data, streams, size = b"", array.array("i"), None
    while size is None or len(data) < size + 8:
        more, ancillary, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(3 * streams.itemsize))
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                streams.frombytes(content[: len(content) // streams.itemsize * streams.itemsize])
        if not more:
            return None, streams
        data += more
        size = int.from_bytes(data[:8], "big") if len(data) >= 8 else None
    request = marshal.loads(data[8:])
    request["environment"] = {os.fsdecode(key): os.fsdecode(value) for key, value in request["environment"].items()}
    return request, streams


def differs(environment):
    """Whether the modules would be others, had they been imported with this environment."""
    return any(environment.get(name) != started.get(name) for name in READ_AT_IMPORT) or any(
        name in environment and environment[name] != started.get(name) for name in READ_IF_SET
    )


def serve(connection, request, streams, mark):
    """In a fork: be the program that a client stands for, and tell it the exit status. Returns only in the forks that
    become its ranks: what they are to become."""
    try:
        os.setsid()
        os.chdir(request["cwd"])
        os.umask(request["umask"])
        resource.setrlimit(resource.RLIMIT_NOFILE, request["files"])
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        own = request["environment"].get(MARK, "").encode()
        if len(own) == len(started[MARK]):
            ctypes.memmove(mark, own, len(own))
        set_environment(request["environment"])
        status = launch(*request["words"], connection=connection)
    except Become as rank:
        return rank
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    flush()
    connection.sendall(str(status).encode())
    os._exit(0)


def launch(program, *words, connection):
    """Run a client's program. Returns its exit status, negative for a signal; raises SystemExit as the program does."""
    if program == "python" and words[0] != "-m":
        return wait(fork(words, [os.environ]), connection)[0]
    import torch.distributed.run as torchrun

    elastic = torchrun.elastic_launch

    def elastic_launch(config, entrypoint):
        """What torchrun starts its ranks by (torch/distributed/launcher/api.py): a function of the program's words."""

        def start(*words):
            here = config.max_nodes == 1 and entrypoint == sys.executable and words[0] == "-u" and words[1] != "-m"
            if not here or any("${" in word for word in words):
                return elastic(config, entrypoint)(*words)
            statuses = wait(fork(words[1:], ranks(config), unbuffered=True), connection)
            failed = [f"rank {rank} ended with {status}" for rank, status in enumerate(statuses) if status]
            return sys.exit(f"{program}: error: {', '.join(failed)}") if failed else None

        return start

    torchrun.elastic_launch = elastic_launch
    if program != "accelerate":
        torchrun.main(list(words[2:] if program == "python" else words))
        return 0
    import accelerate.commands.launch as accelerate

    class Popen:
        """What accelerate starts a single process by."""

        def __init__(self, command, env):
            self.command, self.env, self.returncode = command, env, None

        def wait(self):
            if self.command[0] == sys.executable and self.command[1] != "-m":
                (self.returncode,) = wait(fork(self.command[1:], [self.env]), connection)
            else:
                self.returncode = subprocess.Popen(self.command, env=self.env).wait()

    accelerate.subprocess = types.SimpleNamespace(Popen=Popen, CalledProcessError=subprocess.CalledProcessError)
    sys.argv = ["accelerate", *words]
    accelerate.launch_command(accelerate.launch_command_parser().parse_args(words[1:]))
    return 0


def ranks(config):
    """The environment of each rank, as torch/distributed/elastic/agent/server/local_elastic_agent.py makes it; but the
    ranks' store is rank 0's own, as there is no agent to keep one."""
    address, _, port = config.rdzv_endpoint.rpartition(":")
    if config.rdzv_backend != "static" or port in ("", "0", "-1", "29500"):  # none was chosen: a free one
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address, port = "127.0.0.1", free.getsockname()[1]
    size = config.nproc_per_node
    same = {
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE", "ROLE_WORLD_SIZE"), size),
        **dict.fromkeys(("GROUP_RANK", "TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS"), 0),
        "GROUP_WORLD_SIZE": 1,
        "ROLE_NAME": config.role or "default",
        "MASTER_ADDR": address or "127.0.0.1",
        "MASTER_PORT": port,
        "TORCHELASTIC_RUN_ID": config.run_id or "none",
        "TORCHELASTIC_USE_AGENT_STORE": False,
    }
    for rank in range(size):
        own = {**same, **dict.fromkeys(("RANK", "LOCAL_RANK", "ROLE_RANK"), rank)}
        yield {**os.environ, **{key: str(value) for key, value in own.items()}}


def fork(words, environments, unbuffered=False):
    """Fork a rank for each environment. Returns their process ids; in the ranks, raises Become."""
    pids = []
    for environment in list(environments):
        flush()
        pids.append(os.fork())
        if not pids[-1]:
            raise Become(list(words), dict(environment), unbuffered)
    return pids


def wait(pids, connection):
    """Wait for ranks; their exit statuses, negative for a signal. Where one fails the others are ended, as torchrun
    does; where the client is gone, all are."""
    statuses, deadline = {}, None
    while True:
        for pid in pids:
            ended, status = (0, 0) if pid in statuses else os.waitpid(pid, os.WNOHANG)
            if ended:
                statuses[pid] = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        left = [pid for pid in pids if pid not in statuses]
        if not left:
            return [statuses[pid] for pid in pids]
        if any(statuses.values()):
            now = time.monotonic()
            kill(left, signal.SIGKILL if deadline and now > deadline else signal.SIGTERM)
            deadline = deadline or now + GRACE
        if select.select([connection], [], [], 0.02)[0]:
            os.killpg(0, signal.SIGKILL)


def kill(pids, number, by=os.kill):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            by(pid, number)


def become(rank, base):
    """Run the script as an interpreter does that is started with it."""
    script = rank.words[0]
    set_environment(rank.environment)
    unbuffered = rank.unbuffered or bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=unbuffered or os.isatty(1), write_through=unbuffered)
    sys.stderr.reconfigure(line_buffering=True, write_through=unbuffered)
    faulthandler.enable()
    reseed()
    importlib.invalidate_caches()
    sys.path[:] = [*pythonpath(os.environ), *base]
    customize = importlib.machinery.PathFinder.find_spec("sitecustomize", sys.path)
    if customize and customize.origin != getattr(sys.modules.get("sitecustomize"), "__file__", None):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")
    sys.path.insert(0, str(Path(script).resolve().parent))
    sys.argv = rank.words
    if os.environ.get(INSTRUMENT):
        run(os.environ[INSTRUMENT], {"__name__": "kit_instrument", "__file__": os.environ[INSTRUMENT]})
    if not Path(script).is_file():
        print(f"{sys.executable}: can't open file {script!r}: [Errno 2] No such file or directory", file=sys.stderr)
        sys.exit(2)
    name = script if sys.version_info < (3, 9) else str(Path(script).absolute())
    module = types.ModuleType("__main__")
    loader = importlib.machinery.SourceFileLoader("__main__", name)
    module.__dict__.update(__file__=name, __loader__=loader, __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = module
    run(script, module.__dict__)


def run(file, namespace):
    """Execute a file. Where it raises an exception, it alone is in the traceback, and this process exits with 1."""
    try:
        exec(compile(Path(file).read_bytes(), file, "exec", dont_inherit=True), namespace)
    except SystemExit:
        raise
    except BaseException as error:
        sys.excepthook(type(error), error.with_traceback(error.__traceback__.tb_next), error.__traceback__)
        sys.exit(1)


def reseed():
    """Random numbers and threads of a fresh process. (Python's own `random` sees to itself in a fork.)"""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(TORCH_SEED)
        if os.environ.get("OMP_NUM_THREADS", "").isdigit():  # read by the library as it was loaded
            sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def set_environment(environment):
    os.environ.clear()
    os.environ.update(environment)


def flush():
    sys.stdout.flush()
    sys.stderr.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
