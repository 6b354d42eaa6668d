"""The recipe's reference environment, built with uv: exact pins from a lock kept with the recipe, trees editable.

An environment belongs to a recipe, a device, a workspace and a lock: while none of them changes it is reused. It lives
in the cache; `kit env --list` and `--remove` look after it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from shlex import quote

from kit import output, whole
from kit.cache import cache_dir
from kit.devices import Device, present
from kit.errors import KitError
from kit.recipe import Recipe

STAMP = "kit-environment.json"
PACKAGED = ("setup.py", "pyproject.toml")  # what makes a tree a package that can be installed


@dataclass(frozen=True)
class Environment:
    """An environment in the cache. ``device_wheels``: the device's own package is in it, not a stand-in."""

    path: Path
    recipe: str
    device: str
    workspace: str
    packages: int = 0
    lock: str = ""  # digest of the requirements
    device_wheels: bool = False

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"

    @property
    def extensions(self) -> Path:
        """Where programs in it keep what they compile (DeepSpeed's CPU communication takes 80 s, once). Its own: the
        environment's folder is in the compiler's flags, and where they change, it is compiled again."""
        return cache_dir() / "torch-extensions" / self.path.name


def root() -> Path:
    return cache_dir() / "environments"


def lock_path(recipe: Recipe) -> Path:
    """Where the lock of the recipe's environment is: with the one it extends, where it changes nothing of it."""
    other = recipe.environment.torch
    if recipe.base and recipe.environment == recipe.base.environment.at(other):
        return lock_path(dataclasses.replace(recipe.base, environment=recipe.environment))
    return recipe.path.with_suffix("") / f"requirements{f'-torch-{other}' if other else ''}.txt"


def locked(recipe: Recipe, device: str, workspace: Path) -> str:
    """The recipe's requirements lock. Raises KitError where it has none, with the command that writes it."""
    place = lock_path(recipe)
    try:
        return place.read_text(encoding="utf-8")
    except OSError:
        hint = f"write it: kit env {recipe.called} --device {device} --lock {quote(output.place(workspace))}"
        raise KitError(f"recipe {recipe.name} has no requirements lock ({place})", hint) from None


def has_device(device: Device) -> bool:
    """Whether this machine has the device: something its profile probes for is there."""
    return any(present(probe) for probe in device.probe)


def ensure(recipe: Recipe, device: Device, workspace: Path, python: str = "") -> Environment:
    """The environment for ``workspace``, built if there is none. Raises KitError with uv's own words if uv refuses."""
    from filelock import FileLock

    requirements = locked(recipe, device.name, workspace)
    wheels = device.requirements if has_device(device) else {}
    key = json.dumps([requirements, recipe.environment.python, device.name, wheels, str(workspace), python])
    place = root() / f"{recipe.name}-{device.name}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
    packages = re.findall(r"(?m)^[A-Za-z0-9][\w.-]*==", requirements)
    digest = hashlib.sha256(requirements.encode()).hexdigest()[:12]
    made = Environment(place, recipe.name, device.name, str(workspace), len(packages), digest, bool(wheels))
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if (place / STAMP).is_file():
            return made
        size = re.search(r"(?m)^# installed: ([\d.]+) GB", requirements)
        free = shutil.disk_usage(place.parent).free / 1e9
        needed = float(size[1]) if size else 0.0
        output.note(
            f"building {place}: Python {recipe.environment.python}, {len(packages)} packages, "
            f"about {needed:g} GB on disk ({free:.0f} GB free)"
        )
        if free < needed:
            raise KitError(f"{place.parent}: {free:.0f} GB free, {needed:g} GB needed", "free some, or set KIT_CACHE")
        shutil.rmtree(place, ignore_errors=True)
        uv("venv", "--quiet", "--python", python or find_python(recipe.environment.python), place)
        extra = [f"{name}=={version}" if version else name for name, version in wheels.items()]
        target = ("--quiet", "--python", place / "bin" / "python")
        uv("pip", "install", *target, "-r", lock_path(recipe))
        if extra:
            uv("pip", "install", *target, *extra)
        trees = [tree for tree in _trees(recipe, workspace) if any((tree / name).is_file() for name in PACKAGED)]
        if trees:
            uv("pip", "install", *target, "--no-deps", *[part for tree in trees for part in ("--editable", tree)])
        whole.write(place / STAMP, json.dumps({**asdict(made), "path": str(place)}, indent=2).encode())
    return made


def installed() -> list[Environment]:
    """The finished environments of the cache, those of other versions of kit too."""
    known = {each.name for each in fields(Environment)}
    found = []
    for stamp in sorted(root().glob(f"*/{STAMP}")):
        try:
            table = json.loads(stamp.read_text(encoding="utf-8"))
            found.append(Environment(**{**{key: table[key] for key in known & table.keys()}, "path": stamp.parent}))
        except (AttributeError, TypeError, ValueError):
            raise KitError(f"{stamp} is damaged", f"remove the environment: rm -r {quote(str(stamp.parent))}") from None
    return found


def remove(environment: Environment) -> None:
    shutil.rmtree(environment.path)
    shutil.rmtree(environment.extensions, ignore_errors=True)
    environment.path.with_name(f"{environment.path.name}.lock").unlink(missing_ok=True)


def write_lock(recipe: Recipe, workspace: Path) -> None:
    """Resolve the recipe's pins together with its trees for its Python, on any Linux machine. The trees take part in
    the resolution, so that what they ask of each other holds, and are left out of the lock: they are installed as they
    are (:func:`ensure`)."""
    target = lock_path(recipe)
    pins = recipe.environment.packages
    target.parent.mkdir(exist_ok=True)
    trees = _trees(recipe, workspace)
    wanted = [f"{name}=={version}" if version else name for name, version in pins.items()]
    wanted += [f"-e {tree.absolute().as_uri()}" for tree in trees if (tree / "setup.py").is_file()]
    source = target.with_suffix(".in.tmp")
    source.write_text("".join(f"{line}\n" for line in wanted), encoding="utf-8")
    try:
        options = ("--quiet", "--universal", "--no-header", "--no-annotate")
        version = ["--python-version", recipe.environment.python]
        version += ["--exclude-newer", recipe.environment.newest] * bool(recipe.environment.newest)
        resolved = uv("pip", "compile", *options, *version, source)
    finally:
        source.unlink()
    text = re.sub(r"(?m)^-e .*\n", "", resolved)
    head = f"# Resolved by `kit env {recipe.name} --lock` from the recipe's pins and its upstreams' own requirements.\n"
    size = re.search(r"(?m)^# installed: .*\n", target.read_text("utf-8")) if target.exists() else None
    whole.write(target, (head + (size[0] if size else "") + text).encode())


def _trees(recipe: Recipe, workspace: Path) -> list[Path]:
    return [workspace / upstream.name for upstream in recipe.upstream]


def find_python(version: str) -> str:
    """An interpreter of ``version`` that runs: on PATH, this one, or pyenv's; else the version, for uv to provide."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates = [shutil.which(f"python{version}"), sys.executable]
    candidates += sorted(map(str, pyenv.glob(f"versions/{version}.*/bin/python")), reverse=True)
    for candidate in filter(None, candidates):
        code = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
        done = subprocess.run([candidate, "-c", code], capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.split()[0] == version:
            return done.stdout.split(maxsplit=1)[1].strip()
    return version


def variables() -> dict[str, str]:
    """The variables programs of an environment start from: the caller's, less what is about the caller's Python (and
    with bytecode kept: importing torch and diffusers from source alone is most of a short run)."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}


def uv(*arguments: str | Path) -> str:
    """Run uv. Raises KitError with its own explanation."""
    beside = Path(sys.executable).with_name("uv")
    program = shutil.which("uv") or (str(beside) if beside.is_file() else None)
    if not program:
        raise KitError("uv was not found on PATH", "pip install uv")
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        advice = "change the pins under [environment.packages] so that they agree, then `kit env RECIPE --lock`"
        raise KitError(f"uv {arguments[0]} {arguments[1]} failed:\n{done.stderr.strip()}", advice)
    return done.stdout
