"""Build a stand-in device package for the torch of the Python that runs this: `python build.py --device npu CACHE`.

Prints, as the last line, a folder to put on PYTHONPATH: it holds the package, its metadata (accelerate, transformers
and diffusers look there) and the compiled backend. Everything lies under CACHE, and is reused when torch, Python, the
compiler and the sources are the same; two runs at a time build once. Only a program that has the folder on its path
sees the device, so that one environment serves for the CPU and for every stand-in.

Uses nothing of kit: it runs in the recipe's environment, and needs torch, ninja and g++ (or $CXX) there.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGES = {"npu": "torch_npu", "tpu": "torch_tpu"}  # device: the package that stands in for it
AUTOLOADED = ("torch_npu",)  # those that torch imports by itself, since 2.5
FLAGS = ["-O1", "-g0", "-w", "-DUSE_DISTRIBUTED", "-DUSE_C10D_GLOO"]
METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
Summary: kit's stand-in for {package}, running on the CPU
"""


def fail(problem: str) -> None:
    """End with one line."""
    sys.exit(f"build.py: error: {problem}")


def compiler() -> str:
    """The C++ compiler, and its version's first line. Ends the program where there is none."""
    command = os.environ.get("CXX", "g++")
    if not shutil.which(command):
        fail(
            f"no {command}: the stand-in device is built with it; install g++ (apt-get install g++), or name one in CXX"
        )
    return subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]


def digest(*parts: str | bytes) -> str:
    """Twelve hexadecimal digits that stand for the parts."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part.encode() if isinstance(part, str) else part).digest())
    return total.hexdigest()[:12]


def build_backend(torch: object, target: Path) -> None:
    """Compile backend.cpp to the shared library `target`."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    from torch.utils import cpp_extension

    if not cpp_extension.is_ninja_available():
        fail(f"no ninja in {Path(sys.executable).parent}: pip install ninja into that environment")
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        library = "_backend"
        try:
            cpp_extension.load(
                library, [str(HERE / "backend.cpp")], extra_cflags=FLAGS, build_directory=work, is_python_module=False
            )
        except (RuntimeError, OSError) as error:
            if not (Path(work) / f"{library}.so").is_file():
                log = target.with_suffix(".log")
                log.write_text(str(error))
                fail(f"the stand-in backend does not compile; the compiler's output is in {log}")
        (Path(work) / f"{library}.so").replace(target)
        target.with_suffix(".log").unlink(missing_ok=True)


def assemble(device: str, version: str, backend: Path, target: Path) -> None:
    """Make the folder for PYTHONPATH: packages, metadata, entry point and library."""
    package = PACKAGES[device]
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        site = Path(work) / "site"
        for name in ("kit_standin", package):
            shutil.copytree(HERE / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(backend, site / "kit_standin" / "_backend.so")
        info = site / f"{package}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(METADATA.format(name=package, version=version, package=package))
        if package in AUTOLOADED:
            (info / "entry_points.txt").write_text(f"[torch.backends]\n{package} = {package}:_autoload\n")
        (info / "top_level.txt").write_text(f"{package}\n")
        (info / "INSTALLER").write_text("kit\n")
        site.replace(target)


def main(device: str, cache: Path) -> Path:
    """The folder for PYTHONPATH, built where it is not there yet."""
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # building needs no device, least of all the one being built
    try:
        import torch
    except ImportError as error:
        fail(f"{sys.executable} has no torch ({error}): run this with the Python of the recipe's environment")
    if not hasattr(torch._C, "_rename_privateuse1_backend"):
        fail(f"PyTorch {torch.__version__} knows no device of a package: the stand-in needs 2.1 or newer")
    version = torch.__version__.split("+")[0] + "+kit.standin"
    source = (HERE / "backend.cpp").read_bytes()
    abi = sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag
    cxx11 = str(torch._C._GLIBCXX_USE_CXX11_ABI)
    key = digest(torch.__version__, cxx11, abi, compiler(), " ".join(FLAGS), source)
    files = [path for name in ("kit_standin", PACKAGES[device]) for path in sorted((HERE / name).rglob("*.py"))]
    whole = digest(key, Path(__file__).read_bytes(), *(path.read_bytes() for path in files))
    stem = f"torch{torch.__version__.split('+')[0]}-{sys.implementation.cache_tag}"
    backend = cache / f"backend-{stem}-{key}.so"
    site = cache / f"{device}-{stem}-{whole}"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not backend.is_file():
            print(f"building kit's stand-in backend for torch {torch.__version__}, {abi}", file=sys.stderr, flush=True)
            start = time.monotonic()
            build_backend(torch, backend)
            print(f"built {backend} in {time.monotonic() - start:.0f} s", file=sys.stderr)
        if not site.is_dir():
            assemble(device, version, backend, site)
    print(f"{PACKAGES[device]} {version}: a stand-in that runs on the CPU; put this on PYTHONPATH:", file=sys.stderr)
    return site


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=sorted(PACKAGES), required=True, help="the device to stand in for")
    parser.add_argument("cache", type=Path, help="the folder that keeps what is built")
    options = parser.parse_args()
    print(main(options.device, options.cache.resolve()))
