"""Render the HiDream overlay and call its launch script: no torch, no network."""

from __future__ import annotations

import dataclasses
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kit import devices, overlay, recipe, workspace

OVERLAYS = Path(__file__).parents[2] / "overlays"
SCRIPT = "finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"


def render(device: str, into: Path, device_changes: dict[str, Any] | None = None, **cluster: Any) -> Path:
    """The overlay as kit renders it for a device, whose profile may be changed."""
    found = recipe.load("hidream")
    profile = dataclasses.replace(devices.load(device), **(device_changes or {}))
    numbers = dataclasses.replace(recipe.Cluster(processes=profile.processes), **cluster)
    files = overlay.render(found.root, found.overlay[0], workspace.context(found, profile, numbers))
    into.mkdir(parents=True, exist_ok=True)
    for path, (mode, content) in files.items():
        target = into / Path(path).name
        target.write_bytes(content)
        target.chmod(mode & 0o777)
    return into


@dataclass
class Run:
    """One call of the launch script: what it said, and how it called accelerate (empty if it did not)."""

    status: int
    stdout: str
    stderr: str
    argv: list[str]
    env: dict[str, str]
    cwd: str

    def value(self, flag: str) -> str | None:
        """The value of ``flag`` (with its dashes) in the call of accelerate; the last one, as argparse has it."""
        values = [word.split("=", 1)[1] for word in self.argv if word.startswith(f"{flag}=")]
        return values[-1] if values else None


@dataclass
class Machine:
    """A folder with a PATH of its own, a model, a Llama and a data set that pass the checks."""

    root: Path
    env: dict[str, str] = field(default_factory=dict)

    def launch(self, script: Path, *arguments: str, cwd: Path | None = None, good: bool = True, **env: str) -> Run:
        record = self.root / "record"
        for name in ("argv", "env", "cwd"):
            (record / name).unlink(missing_ok=True)
        paths = ["--model_name", "model", "--pretrained4_path", "llama", "--dataset_name", "data"] if good else []
        done = subprocess.run(
            ["bash", str(script), *paths, *arguments],
            cwd=cwd or self.root / "work",
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        called = (record / "argv").exists()
        words = (record / "argv").read_text().split("\0")[:-1] if called else []
        pairs = (record / "env").read_text().split("\0")[:-1] if called else []
        cwd_seen = (record / "cwd").read_text().strip() if called else ""
        return Run(
            done.returncode, done.stdout, done.stderr, words, dict(pair.split("=", 1) for pair in pairs), cwd_seen
        )

    def prints(self, text: str) -> None:
        """What the training will print."""
        (self.root / "record" / "output").write_text(text, newline="")
