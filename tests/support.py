"""What the tests stand on: an environment of their own, tiny upstreams, recipe folders, and ways to run kit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

REPOSITORY = Path(__file__).parent.parent
BYTECODE = REPOSITORY / ".pytest_cache/bytecode"
UV = Path(sys.executable).with_name("uv")
REAL = dict(os.environ)  # as the user has it, before any test

# A training script in small: `weights-pop` and `progress-print` each have exactly one place to mend.
TRAIN = """\
import argparse


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--max_train_steps", type=int, default=10)
    return parser.parse_args()


def main(args, accelerator):
    def save_model_hook(models, weights, output_dir):
        for model in models:
            weights.pop()

    accelerator.register_save_state_pre_hook(save_model_hook)
    global_step = 0
    for epoch in range(10):
        for batch in range(10):
            global_step += 1
            if global_step >= args.max_train_steps:
                break
"""
GUARDED = TRAIN.replace("            weights.pop()\n", "            if weights:\n                weights.pop()\n")
PRINTED = TRAIN + '            accelerator.print("")\n'


@contextlib.contextmanager
def sandbox(root: Path, **changes: str) -> Iterator[None]:
    """A fresh machine under ``root``: its own HOME, cache and temporary folder, a git all but unconfigured."""
    home, work, scratch = root / "home", root / "work", root / "scratch"
    for folder in (home, work, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    kept: dict[str, str] = {key: REAL[key] for key in ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH") if key in REAL}
    private = {
        "HOME": home,
        "KIT_CACHE": root / "cache",
        "TMPDIR": scratch,
        "XDG_CACHE_HOME": home / ".cache",
        "XDG_CONFIG_HOME": home / ".config",
        "XDG_DATA_HOME": home / ".local/share",
        "XDG_STATE_HOME": home / ".local/state",
        "GIT_CONFIG_GLOBAL": home / ".gitconfig",
        "GIT_CONFIG_SYSTEM": os.devnull,
        "LC_ALL": "C.UTF-8",
        "PYTHONPYCACHEPREFIX": BYTECODE,
    }
    kept |= {key: value for key, value in os.environ.items() if key.startswith("PYTEST_")}
    kept |= {key: str(value) for key, value in private.items()}
    write(home, {".gitconfig": "[core]\n\tfsync = none\n"})  # tests need not survive a power cut
    before, temporary = Path.cwd(), tempfile.tempdir
    with mock.patch.dict(os.environ, {**kept, **changes}, clear=True):
        os.chdir(work)
        tempfile.tempdir = None
        try:
            yield
        finally:
            os.chdir(before)
            tempfile.tempdir = temporary


@dataclass(frozen=True)
class Done:
    """How a run of kit ended: its status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Kit = Callable[..., Done]  # the fixture `kit`
MADE = Path("made")


def kit_argv(*arguments: str | Path, before: str = "") -> list[str]:
    """The command line of `kit` in a process of its own; ``before`` is Python to run first."""
    code = f"{before}\nimport sys; sys.argv[0] = 'kit'; from kit.cli import main; main()"
    return [sys.executable, "-c", code, *map(str, arguments)]


def kit_process(*arguments: str | Path, **changes: str) -> Done:
    """Run `kit` in a process of its own, with ``changes`` to the environment."""
    environment = {**os.environ, **changes}
    done = subprocess.run(kit_argv(*arguments), env=environment, capture_output=True, text=True, timeout=120)
    return Done(done.returncode, done.stdout, done.stderr)


def git(*arguments: str | Path, at: Path, **changes: str) -> str:
    """The user's own git: their configuration and environment, whatever kit would scrub."""
    user = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "A"), ("EMAIL", "a@b"), ("DATE", "1700000000 +0100"))
    }
    environment = {**user, **os.environ, **changes}
    argv = ["git", "-C", str(at), *map(str, arguments)]
    return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def write(root: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write ``files`` under ``root``; a name that ends in `*` gets the run bit (and loses the star)."""
    for name, content in files.items():
        path = root / name.removesuffix("*")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        if name.endswith("*"):
            path.chmod(0o755)
    return root


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    """Every file under ``root``: its mode and content."""
    return {
        path.relative_to(root).as_posix(): (path.stat().st_mode, path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def make_upstream(place: Path, files: Mapping[str, str | bytes] | None = None) -> str:
    """A git repository at ``place`` that serves any commit, with ``files`` (default: a training script); its HEAD."""
    place.mkdir(parents=True, exist_ok=True)
    if not (place / ".git").exists():
        git("init", "--quiet", "--template=", "--initial-branch=main", at=place)
        git("config", "uploadpack.allowFilter", "true", at=place)
        git("config", "uploadpack.allowAnySHA1InWant", "true", at=place)
    write(place, files or {"examples/train.py": TRAIN, "README.md": "an upstream\n"})
    git("add", "--all", "--force", at=place)
    git("commit", "--quiet", "--message", "upstream", at=place)
    return git("rev-parse", "HEAD", at=place)


def toml(table: Mapping[str, Any]) -> str:
    """A table as TOML: lists of tables as `[[name]]`, tables as `[name]`, tables within those inline."""

    def value(item: Any) -> str:
        if isinstance(item, dict):
            return "{ " + ", ".join(f"{key} = {value(each)}" for key, each in item.items()) + " }"
        return f"[{', '.join(map(value, item))}]" if isinstance(item, list) else json.dumps(item)

    def lines(part: Mapping[str, Any]) -> list[str]:
        return [f"{key} = {value(item)}" for key, item in part.items()]

    text = lines({key: item for key, item in table.items() if not _is_table(item)})
    for key, item in table.items():
        if _is_table(item):
            header = f"[{key}]" if isinstance(item, dict) else f"[[{key}]]"
            for part in [item] if isinstance(item, dict) else item:
                text += ["", header, *lines(part)]
    return "\n".join(text) + "\n"


def _is_table(item: Any) -> bool:
    return isinstance(item, dict) or (isinstance(item, list) and bool(item) and isinstance(item[0], dict))


@dataclass
class Root:
    """A folder with recipes/, patches/ and overlays/, and one tiny upstream that its recipes take."""

    place: Path
    upstream: Path
    pin: str
    table: dict[str, Any] = field(default_factory=dict)

    def recipe(self, name: str = "tiny", upstream: Mapping[str, Any] | None = None, **changes: Any) -> Path:
        """Write a recipe: two fixes and an overlay, with ``changes`` to its tables (None: left out)."""
        self.table = {
            "name": name,
            "title": "Tiny",
            "summary": "two fixes on a tiny upstream",
            "devices": ["cpu", "npu"],
            "upstream": [{"name": "up", "url": str(self.upstream), "pin": self.pin, **(upstream or {})}],
            "fix": [
                {"id": "weights-pop", "files": ["examples/train.py"]},
                {"id": "progress-print", "files": ["examples/train.py"]},
            ],
            "overlay": [{"source": name, "into": "examples"}],
            "environment": {"python": "3.10"},
            **changes,
        }
        text = toml({key: value for key, value in self.table.items() if value is not None})
        if not (self.place / "overlays" / name).exists():
            self.overlay({"run.sh.j2*": RUN, "helper.py": "SPEED = 11\n"}, name)
        return write(self.place / "recipes", {f"{name}.toml": text}) / f"{name}.toml"

    def overlay(self, files: Mapping[str, str | bytes], name: str = "tiny") -> Path:
        """Put ``files`` in place of the overlay's."""
        shutil.rmtree(self.place / "overlays" / name, ignore_errors=True)
        return write(self.place / "overlays" / name, files)

    def refresh(self, name: str = "tiny") -> None:
        """Write the recipe's patches from its codemods, as `kit refresh` does."""
        from kit.commands import refresh

        with contextlib.redirect_stdout(io.StringIO()):
            refresh.run((str(self.place / "recipes" / f"{name}.toml"),), check=False, offline=False)

    def patches(self, name: str = "tiny") -> Path:
        return self.place / "patches" / name / "up"


def prepare(root: Root, kit: Kit, *options: str, device: str = "cpu") -> Done:
    return kit("prepare", root.place / "recipes/tiny.toml", "--device", device, "made", *options)


def contents(place: Path = MADE) -> dict[str, tuple[int, bytes]]:
    """The files of a workspace, its repositories' own among them only as far as a user would miss them."""
    kept = ("HEAD", "config", "refs/")
    return {
        name: file
        for name, file in snapshot(place).items()
        if "/.git/" not in f"/{name}" or name.partition(".git/")[2].startswith(kept)
    }


RUN = """\
#!/usr/bin/env bash
# {{ recipe.title }} on {{ device.title }}
python3 train.py \\
  --max_train_steps="${steps:-{{ cluster.processes }}}"
"""


def gone(pid: int) -> bool:
    """Whether a process has ended; a killed one takes a moment."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
