"""Render the HiDream overlay and call its launch script: no torch, no network."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from kit import devices

OVERLAYS = Path(__file__).parents[2] / "overlays"
SCRIPT = "finetune_hidream_dreambooth_lora_deepspeed_bf16.sh"


def render(device: str, into: Path, **cluster: Any) -> Path:
    """The rendered overlay for a device; a device table may be changed with `device_changes`."""
    profile = asdict(devices.load(device)) | cluster.pop("device_changes", {})
    numbers = {"machines": 1, "machine_rank": 0, "main_ip": "localhost", "main_port": 6000}
    context = {
        "device": profile,
        "recipe": {"name": "hidream", "title": "HiDream-I1"},
        "upstreams": {"diffusers": {"url": "https://github.com/huggingface/diffusers", "pin": "0" * 40}},
        "cluster": numbers | {"processes": profile["processes"]} | cluster,
    }
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(OVERLAYS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    into.mkdir(parents=True, exist_ok=True)
    for source in sorted((OVERLAYS / "hidream").iterdir()):
        target = into / source.name.removesuffix(".j2")
        if source.suffix == ".j2":
            target.write_text(templates.get_template(f"hidream/{source.name}").render(context))
            shutil.copymode(source, target)
        elif source.is_file():
            shutil.copy(source, target)
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
