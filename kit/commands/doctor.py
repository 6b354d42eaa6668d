"""`kit doctor [--device DEVICE]`: what kit and a device need: found, missing, what to do."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from kit import devices, git, output, overlay, recipe
from kit.cache import cache_dir
from kit.devices import Device

CHECK = "shared/check_device.py.j2"
CHECK_SECONDS = 120  # a device may be slow to wake, and torch to import


@dataclass(frozen=True)
class Finding:
    """One thing looked for. ``needed_for`` says what does not work without it; "" where it is only good to have."""

    name: str
    found: bool
    detail: str
    advice: str = ""
    needed: bool = True


def run(device: str | None, as_json: bool) -> int:
    findings = [*_kit(), *(_device(devices.load(device)) if device else [])]
    lacking = [finding for finding in findings if finding.needed and not finding.found]
    if as_json:
        output.as_json({"ok": not lacking, "findings": [asdict(finding) for finding in findings]})
        return 1 if lacking else 0
    for finding in findings:
        mark = "found  " if finding.found else "MISSING" if finding.needed else "absent "
        output.line(f"{mark}  {finding.name}: {finding.detail}")
        if not finding.found:
            for line in finding.advice.splitlines():
                output.line(f"         {line}")
    if not device:
        output.line(f"for a device's packages and toolkit: kit doctor --device {{{','.join(devices.names())}}}")
    return 1 if lacking else 0


def _kit() -> list[Finding]:
    version = git.version()
    shown = ".".join(map(str, version)) if version else "not on PATH"
    cache = cache_dir()
    writable = next((parent for parent in (cache, *cache.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(writable).free / 1e9
    return [
        Finding(
            "git", bool(version and version >= (2, 27)), shown, "install git 2.27 or newer (sparse, partial clones)"
        ),
        Finding("Python", sys.version_info >= (3, 10), sys.version.split()[0], "kit needs Python 3.10 or newer"),
        _program("bash", "install bash: the launch scripts are bash"),
        _program("uv", "pip install uv: it builds the reference environments", needed=False),
        Finding(
            "cache", os.access(writable, os.W_OK), f"{cache}, {free:.0f} GB free", "set KIT_CACHE to a writable folder"
        ),
    ]


def _program(name: str, advice: str, needed: bool = True) -> Finding:
    path = shutil.which(name)
    return Finding(name, bool(path), path or "not on PATH", advice, needed)


def _device(device: Device) -> list[Finding]:
    findings = []
    if device.probe:
        matches = [match for probe in device.probe for match in devices.present(probe)]
        looked = ", ".join(device.probe)
        advice = f"without one, {device.title} runs only through a stand-in; install its driver"
        advice = _with_commands(advice, device, "driver")
        findings.append(Finding(device.title, bool(matches), ", ".join(matches) or f"looked for {looked}", advice))
    for variable in filter(None, [device.visible_devices]):
        value = os.environ.get(variable)
        findings.append(Finding(variable, value is not None, value or "not set: all devices are used", needed=False))
    if device.toolkit:
        places = [path for path in map(os.path.expandvars, device.toolkit) if "$" not in path]
        found = [path for path in places if Path(path).is_file()]
        advice = _with_commands(f"install the toolkit, then: source {places[0]}", device, "toolkit")
        findings.append(Finding("toolkit", bool(found), found[0] if found else f"no {places[0]}", advice))
    packages = [_package(name, device) for name in filter(None, ["torch", device.package])]
    return findings + packages + ([_computes(device)] if all(package.found for package in packages) else [])


def _with_commands(advice: str, device: Device, name: str) -> str:
    """``advice``, and below it the commands that install ``name``, where the profile has them."""
    return "\n".join([advice, *(f"  {command}" for command in device.install.get(name, ()))])


def _computes(device: Device) -> Finding:
    """Whether a linear layer computes on the device, with the Python on PATH."""
    base = recipe.shipped_root() / "overlays"
    script = overlay.render_file(base, base / CHECK, {"device": asdict(device)}).decode()
    name = "a layer on the device"
    try:
        done = subprocess.run([_python(), "-c", script], capture_output=True, text=True, timeout=CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        return Finding(name, False, f"no result in {CHECK_SECONDS} s", "look whether another process holds the device")
    good = done.returncode == 0
    said = (done.stdout if good else done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
    advice = "look at the driver, and at the versions of torch and of the device's package"
    return Finding(name, good, said[-1], advice)


def _python() -> str:
    """The Python on PATH, the one the launch scripts use."""
    return shutil.which("python3") or sys.executable


def _package(name: str, device: Device) -> Finding:
    """Whether the Python on PATH has a package; it is not imported."""
    python = _python()
    pin = f"'{name}=={device.packages[name]}'" if name in device.packages else name
    command = "" if name in device.install else f" pip install {pin}"
    advice = _with_commands(f"in the recipe's environment:{command}", device, name)
    code = f"import importlib.util as u; s = u.find_spec({name!r}); print(s.origin if s else '')"
    if Path(python).resolve() == Path(sys.executable).resolve():
        spec = importlib.util.find_spec(name)
        origin = spec.origin or "" if spec else ""
    else:
        origin = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()
    return Finding(f"{name} package", bool(origin), origin or f"not in {python}", advice)
