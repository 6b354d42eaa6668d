"""Where a smoke run happens: recipe, environment and tiny model, the folders commands run in and write to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from kit.devices import Device
from kit.environment import Environment
from kit.proof import Smoke
from kit.recipe import Recipe
from kit.smoke.forkserver import Server


@dataclass(frozen=True)
class Run:
    """Where a smoke run happens: the folder its commands run in, an empty one for what they write, the tiny model."""

    recipe: Recipe
    smoke: Smoke
    device: Device
    environment: Environment
    folder: Path
    out: Path
    tiny: Path
    standin: Mapping[str, str]  # variables that bring in the device's stand-in; none on the device itself
    imports: tuple[Path, ...] = ()  # folders whose packages are taken instead of the environment's
    server: Server | None = None  # what forks the steps; none: each starts its programs anew

    @property
    def through(self) -> str:
        """How a verdict reached here must be qualified: through a stand-in, or not at all."""
        return "through the stand-in" if self.standin else ""

    @property
    def calls(self) -> Path:
        """Where the processes of a step say how often they called what of the stand-in: kit_standin, report."""
        return self.out / "calls.jsonl"

    def fill(self, text: str) -> str:
        places = {"tiny": str(self.tiny), "out": str(self.out), "device": self.device.device}
        return re.sub(r"\{(\w+)\}", lambda match: places.get(match[1], match[0]), text)
