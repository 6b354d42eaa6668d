"""Render the overlays of a recipe and call their launch scripts: no torch, no network."""

from __future__ import annotations

import dataclasses
import functools
import os
import py_compile
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

import forking

from kit import overlay, planning, recipe, recipes

OVERLAYS = Path(__file__).parents[2] / "overlays"
SCRIPT = "finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"
GOOD = ("--model_name", "model", "--pretrained4_path", "llama", "--dataset_name", "data")


def render(
    device: str, into: Path, device_changes: dict[str, Any] | None = None, name: str = "hidream", **cluster: Any
) -> Path:
    """A recipe's overlays as kit renders them for a device, whose profile may be changed: HiDream's one straight into
    ``into``, another recipe's at their paths in the upstream below it."""
    key = repr((device, device_changes, name, cluster))
    if key not in _RENDERED:
        found = recipes.load(name)
        profile = dataclasses.replace(found.device(device), **(device_changes or {}))
        numbers = dataclasses.replace(recipe.Cluster(processes=profile.processes), **cluster)
        context = planning.context(found, profile, numbers)
        parts = (part for part in found.overlay if not part.devices or device in part.devices)
        _RENDERED[key] = {
            path.removeprefix("examples/dreambooth/") if name == "hidream" else path: file
            for part in parts
            for path, file in overlay.render(found.roots, part, context).items()
        }
    for path, (mode, content) in _RENDERED[key].items():
        target = into / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode & 0o777)
        if target.parent.name == "launcher" and target.suffix == ".py":
            cached = target.parent / "__pycache__" / f"{target.stem}.{sys.implementation.cache_tag}.pyc"
            cached.parent.mkdir(exist_ok=True)
            cached.write_bytes(_compiled(content, target.name))
    return into


_RENDERED: dict[str, dict[str, tuple[int, bytes]]] = {}


@functools.cache
def _compiled(content: bytes, name: str) -> bytes:
    """The bytecode of a module, as Python caches it: it holds for this content alone."""
    with tempfile.TemporaryDirectory() as folder:
        module = Path(folder, name)
        module.write_bytes(content)
        made = py_compile.compile(str(module), doraise=True, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
        return Path(str(made)).read_bytes()


@dataclass
class Run:
    """One call of the launch script: what it said, and how it called accelerate (empty if it did not)."""

    status: int
    stdout: str
    stderr: str
    argv: list[str]
    env: dict[str, str]
    cwd: str
    config: str  # the accelerate config, as it was when accelerate started

    def value(self, flag: str) -> str | None:
        """The value of ``flag`` (with its dashes) in the call of accelerate; the last one, as argparse has it."""
        values = [word.split("=", 1)[1] for word in self.argv if word.startswith(f"{flag}=")]
        return values[-1] if values else None


@dataclass
class Machine:
    """A folder with a PATH of its own, a model, a Llama and data sets that pass the checks; ``good`` gives them."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)
    good: tuple[str, ...] = GOOD

    def launch(self, script: Path, *arguments: str, cwd: Path | None = None, good: bool = True, **env: str) -> Run:
        """Call the launch script. Its launcher is a fork of this process, unless the environment is to change Python's
        own ways."""
        record, cwd = self.root / "record", cwd or self.root / "work"
        for name in ("launcher", "inherited", "argv", "env", "cwd", "config"):
            (record / name).unlink(missing_ok=True)
        fork = {} if any(name.startswith(("LC_", "PYTHON")) for name in env) else {"KIT_FORK": "1"}
        done = subprocess.run(
            ["bash", str(script), *(self.good if good else ()), *arguments],
            cwd=cwd,
            env=self.env | env | fork,
            capture_output=True,
            text=True,
            timeout=forking.LIMIT,
        )
        if (record / "inherited").exists():
            done = forking.run(self._words("launcher"), cwd, self._variables("inherited"))
        called = (record / "argv").exists()
        words, variables = (self._words("argv"), self._variables("env")) if called else ([], {})
        seen = [(record / name).read_text() if called else "" for name in ("cwd", "config")]
        return Run(done.returncode, done.stdout, done.stderr, words, variables, seen[0].strip(), seen[1])

    def _words(self, name: str) -> list[str]:
        return os.fsdecode((self.root / "record" / name).read_bytes()).split("\0")[:-1]

    def _variables(self, name: str) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self._words(name) if not pair.startswith("KIT_FORK="))

    def prints(self, text: str) -> None:
        """What the training will print."""
        (self.root / "record" / "output").write_text(text, newline="")
