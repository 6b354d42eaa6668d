"""`kit cluster WORKSPACE --for KIND`: what a scheduler wants, with the recipe's facts filled in.

The templates are kit/clusters/KIND.sh.j2: shell scripts, so that what a site decides is a variable at the top, and what
is given on the command line goes through to the launch script.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

from kit import devices, lock, output, overlay, whole, workspace
from kit.errors import KitError
from kit.schema import nearest

TEMPLATES = Path(__file__).parents[1] / "clusters"
AGAIN = "prepare the workspace again"
SEVERAL = ("machines", "nnodes")  # the settings by which a launch script is told of several machines


def kinds() -> list[str]:
    """What there is a template for."""
    return sorted(path.name.removesuffix(".sh.j2") for path in TEMPLATES.glob("*.sh.j2"))


def run(workspace_path: str, kind: str, machines: int | None, image: str, script: str) -> int:
    """Write kit-KIND.sh here. Raises KitError where there is no such workspace or launch script, where that is for one
    machine, and where another file is in the way."""
    place = workspace.find(Path(workspace_path))
    if len(place) > 1:
        raise KitError(f"{workspace_path}: {len(place)} workspaces", f"kit cluster {place[0]} --for {kind}")
    if image and kind == "slurm":
        raise KitError("--image: a job of Slurm runs without a container", "leave it out, or see recipes/clusters.md")
    text = overlay.render_file((TEMPLATES,), f"{kind}.sh.j2", context(place[0], machines, image, script))
    made = Path(f"kit-{kind}.sh")
    if made.exists() and made.read_bytes() != text:
        raise KitError(f"{made} is there, and other than what would be written", f"look at it, then: rm {made}")
    whole.write(made, text)
    made.chmod(0o755)
    output.line(f"written: {made}")
    output.line("next:")
    typed = next(line for line in text.decode().splitlines() if re.match("#     ", line))
    output.line(f"  {typed.lstrip('# ')}")
    return 0


def context(place: Path, machines: int | None, image: str, script: str) -> dict[str, Any]:
    """What the templates know: the workspace, its launch script, the device. All that comes from the workspace, which
    may be a stranger's, is quoted for a shell, or is a name."""
    locked = lock.read(place)
    device = devices.load(locked.device)
    folder, name, program, several = _program(place, script, machines or 1)
    to = program.get("roles", {}).get("output", "output_dir")
    named = Path(locked.recipe).stem
    for text in (named, name, folder, to):
        if not re.fullmatch(r"[\w./-]+", text):
            raise KitError(f"{place}: {text!r} is no name", AGAIN)
    return {
        "device": dataclasses.asdict(device),
        "title": re.sub(r"[^\w ,.()-]", "", program["title"]),
        "name": re.sub(r"[^a-z0-9-]", "-", named.lower()),
        "workspace": shlex.quote(str(place.resolve())),
        "place": shlex.quote(place.name),
        "folder": folder,
        "script": name,
        "output": to,
        "options": " ".join(map(shlex.quote, _resuming(program))),
        "machines": machines or (2 if several else 1),
        "cards": device.processes,
        "image": shlex.quote(image),
    }


def _program(place: Path, script: str, machines: int) -> tuple[str, str, dict[str, Any], bool]:
    """The launch script: its folder, name and table, and whether it is for several machines; the one that is asked for,
    or the only one that is, or the only one."""
    try:
        found = {
            name: (str(path.parents[1].relative_to(place)), name, table)
            for path in sorted(place.glob("**/launcher/programs.json"))
            for name, table in json.loads(path.read_text(encoding="utf-8")).items()
        }
        options = {name: {each["name"] for each in table["options"]} for name, (_, _, table) in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(f"{place}: its launcher/programs.json is none of kit's: {error}", AGAIN) from None
    many = [name for name in found if options[name] & {*SEVERAL}]
    if script and script not in found:
        raise KitError(
            f"no launch script {script!r} in {place}{nearest(script, list(found))}", f"there are: {', '.join(found)}"
        )
    if machines > 1 and (script not in many if script else not many):
        which = script or ", ".join(found)
        raise KitError(f"{which}: is for one machine", f"--machines 1{f', or --script {many[0]}' if many else ''}")
    candidates = [script] if script else many if len(many) == 1 or machines > 1 else list(found)
    if len(candidates) != 1:
        raise KitError("which launch script?", "--script, one of: " + ", ".join(candidates))
    return *found[candidates[0]], candidates[0] in many


def _resuming(program: dict[str, Any]) -> list[str]:
    """The options by which a run goes on from the newest whole checkpoint, and makes such."""
    kinds_of = {each["kind"]: each["name"] for each in program["options"]}
    name = kinds_of.get("resume") or kinds_of.get("state")
    switches = [
        each["name"] for each in program["options"] if {*each.get("flags", ())} & {*program.get("saves", ())[1:]}
    ]
    return [f"--{name}=latest", *(f"--{switch}=true" for switch in switches)] if name else []
