"""`kit doctor [RECIPE] [--device DEVICE]`: what kit, a device and a recipe need: found, missing, what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet

from kit import beside, devices, git, output, overlay, recipes
from kit.cache import cache_dir
from kit.commands import prepare
from kit.devices import Device
from kit.errors import KitError
from kit.recipe import Recipe

CHECK = "shared/check_device.py.j2"
CHECK_SECONDS = 120  # a device may be slow to wake, and torch to import
INSTALLED = """
import importlib.metadata as m, importlib.util as u, json, sys
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
spec = {name: u.find_spec(name) for name in ("torch", sys.argv[1]) if name}
print(json.dumps([sys.version.split()[0], {name: version(name) for name in sys.argv[2:]},
                  {name: found.origin for name, found in spec.items() if found}]))
"""


# What the launcher makes of this machine's network: the variables it would set here, for machine 0 where the scheduler
# says so, else for an address that is elsewhere (203.0.113.0/24 is nobody's: RFC 5737); nothing is sent.
NETWORK = """
import os, sys
sys.path.insert(0, sys.argv[1])
from launcher import scheduler
from launcher.mistake import Mistake
try:
    place = scheduler.find(os.environ)
except Mistake:
    place = None
ip = place.ip if place else "203.0.113.1"
found = scheduler.network(ip, sys.argv[2], os.environ)
print(scheduler.own_address(ip)[1], *(f"{name}={value}" for name, value in found.items()))
"""


@dataclass(frozen=True)
class Finding:
    """One thing looked for. ``needed``: something does not work without it; else it is only good to have."""

    name: str
    found: bool
    detail: str
    advice: str = ""
    needed: bool = True


@dataclass(frozen=True)
class Python:
    """The Python on PATH, the one the launch scripts use: its version, by package the version it has (None: not
    there), and where it finds torch and the device's package."""

    path: str
    version: str
    packages: Mapping[str, str | None]
    origins: Mapping[str, str]


def run(recipe_name: str | None, device: str | None, settings: tuple[str, ...], as_json: bool) -> int:
    """Raises KitError for an unknown recipe, device or option, and for a recipe without a device."""
    findings = [*_kit(), *_asked(recipe_name, device, settings)]
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
    elif not recipe_name:
        output.line(f"for what a recipe needs there, too: kit doctor RECIPE --device {device}")
    return 1 if lacking else 0


def _asked(recipe_name: str | None, device: str | None, settings: tuple[str, ...]) -> list[Finding]:
    """What the device needs, for the recipe if one is named."""
    if not recipe_name:
        if settings:
            raise KitError("--set is for a recipe, and none is named", "kit doctor RECIPE --device DEVICE --set …")
        return _device(devices.load(device), None) if device else []
    found = recipes.load(recipe_name)
    if not device:
        hint = f"kit doctor {found.called} --device {found.devices[0]}"
        raise KitError(f"which device? {found.name} supports {', '.join(found.devices)}", hint)
    found.device(device)
    found = found.at(device, found.options(device, given=prepare.given(settings)))
    return _device(found.device(device), found)


def _kit() -> list[Finding]:
    version = git.version()
    shown = ".".join(map(str, version)) if version else "not on PATH"
    advice = f"install git {'.'.join(map(str, git.FLOOR))} or newer (sparse, partial clones)"
    cache = cache_dir()
    writable = next((parent for parent in (cache, *cache.parents) if parent.exists()), Path("/"))
    free = shutil.disk_usage(writable).free / 1e9
    return [
        Finding("git", bool(version and version >= git.FLOOR), shown, advice),
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


def _device(device: Device, found: Recipe | None) -> list[Finding]:
    wanted = found.environment.packages if found else {}
    python = _python([*device.requirements, *wanted, "torch"], device.package)
    findings = [*_hardware(device), _network(device)]
    if found:
        version, whose = found.environment.python, f"{found.name}'s is {found.environment.python}"
        advice = f"conda create -n {found.name} python={version} && conda activate {found.name}  # or another way"
        good = python.version.startswith(f"{version}.")
        findings.append(
            Finding("Python of the recipe", good, f"{python.version}, {python.path}; {whose}", f"make one: {advice}")
        )
    wheels = {device.package: found.environment.wheels} if found else {}
    for name in filter(None, ("torch", device.package)):
        findings.append(_package(name, wanted.get(name, ""), device, python, wheels.get(name, "")))
    if device.toolkit_releases:
        findings.append(_pairing(device, python))
    if device.toolkit_imports:
        needs = dict.fromkeys(device.toolkit_imports, "")
        findings.append(_packages(f"what {device.toolkit_name} imports", needs, python))
    if found:
        needs = {**wanted, **device.packages}
        for name in ("torch", device.package):
            needs.pop(name, None)
        findings.append(_packages(f"packages of {found.name}", needs, python))
    there = all(name in python.origins for name in ("torch", device.package) if name)
    return findings + ([_computes(device)] if there else [])


def _hardware(device: Device) -> list[Finding]:
    """The device itself, the variable that chooses among several, its toolkit."""
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
        found = _toolkit(device)
        advice = _with_commands(f"install the toolkit, then: source {places[0]}", device, "toolkit")
        missing = f"no {' or '.join(places)}"
        findings.append(Finding("toolkit", bool(found), str(found or missing), advice))
    return findings


def _network(device: Device) -> Finding:
    """The network card that several machines would meet over."""
    command = [sys.executable, "-B", "-c", NETWORK, str(beside.shipped_root() / "overlays"), device.device]
    card, *variables = subprocess.run(command, capture_output=True, text=True).stdout.split() or [""]
    detail = f"{card}; on several machines a launch script sets {' '.join(variables) or 'nothing: all is set'}"
    advice = "for several machines set GLOO_SOCKET_IFNAME to the card that leads to machine 0"
    return Finding("network card", bool(card), detail if card else "none that leads elsewhere", advice, needed=False)


def _toolkit(device: Device) -> Path | None:
    """The toolkit's set-up script, the first of the profile's that is there."""
    places = [Path(path) for path in map(os.path.expandvars, device.toolkit) if "$" not in path]
    return next((place for place in places if place.is_file()), None)


def _pairing(device: Device, python: Python) -> Finding:
    """Whether the release of the toolkit is the one that the device's package is made for."""
    package = device.package
    wanted = device.packages.get(package, "")
    release = device.toolkit_releases.get(wanted, "")
    there = devices.toolkit_release(_toolkit(device))
    name = f"{package} and {device.toolkit_name}"
    pair = f"{package} {wanted}, as the requirements have it, is for {device.toolkit_name} {release or '(not known)'}"
    if not there:
        return Finding(name, False, f"{pair}; which {device.toolkit_name} is here cannot be told", needed=False)
    torch = wanted.partition(".post")[0]
    fitting = [each for each, its in device.toolkit_releases.items() if its == there]
    same = [each for each in fitting if each.partition(".post")[0] == torch]
    has = python.packages.get(package) or wanted
    good = device.toolkit_releases.get(has, "") == there
    advice = f"install {device.toolkit_name} {release}" if release else ""
    if same:
        advice += f", or with the one that is here: pip install '{package}=={same[0]}'"
    elif fitting:
        advice += f" (for {there} there is no {package} {torch}, but {', '.join(fitting)})"
    return Finding(name, good, f"{pair}; here: {package} {has}, {device.toolkit_name} {there}", advice)


def _package(name: str, wanted: str, device: Device, python: Python, wheels: str) -> Finding:
    """Whether the Python on PATH has a package, in the version that is ``wanted``; it is not imported. ``wheels``:
    where it is to be had, if not from a registry."""
    wanted = wanted or device.packages.get(name, "")
    pin = f"'{name}=={wanted}'" if wanted else name
    command = "" if name in device.install else f" pip install {pin}"
    advice = wheels or _with_commands(f"in the recipe's environment:{command}", device, name)
    origin, version = python.origins.get(name, ""), python.packages.get(name) or ""
    other = f", version {version}, not {wanted}" if version and not _is(version, wanted) else ""
    if origin and other and name == device.package and version in device.toolkit_releases:
        other = ""  # another release, which fits another toolkit: the pairing says whether this one
    return Finding(f"{name} package", bool(origin) and not other, origin + other or f"not in {python.path}", advice)


def _packages(name: str, wanted: Mapping[str, str], python: Python) -> Finding:
    """Whether the Python on PATH has all of ``wanted`` (package to version; "": any)."""
    has = python.packages
    wrong = [each for each, version in wanted.items() if not _is(has.get(each), version)]
    detail = ", ".join(f"{each} {has.get(each) or 'not there'}" for each in wrong) or f"all {len(wanted)} are there"
    pins = " ".join(f"'{each}=={wanted[each]}'" if wanted[each] else each for each in wrong)
    return Finding(name, not wrong, detail, f"in the recipe's environment: pip install {pins}")


def _is(version: str | None, wanted: str) -> bool:
    """Whether an installed version is the one that is wanted ("": any); 2.7.1+cpu is 2.7.1."""
    return version is not None and (not wanted or SpecifierSet(f"=={wanted}").contains(version, prereleases=True))


def _with_commands(advice: str, device: Device, name: str) -> str:
    """``advice``, and below it the commands that install ``name``, where the profile has them."""
    return "\n".join([advice, *(f"  {command}" for command in device.install.get(name, ()))])


def _computes(device: Device) -> Finding:
    """Whether a linear layer computes on the device, with the Python on PATH."""
    script = overlay.render_file(beside.folders("overlays"), CHECK, {"device": asdict(device)}).decode()
    name = "a layer on the device"
    try:
        done = subprocess.run([_interpreter(), "-c", script], capture_output=True, text=True, timeout=CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        return Finding(name, False, f"no result in {CHECK_SECONDS} s", "look whether another process holds the device")
    good = done.returncode == 0
    said = (done.stdout if good else done.stderr).strip().splitlines() or [f"exit status {done.returncode}"]
    advice = "look at the driver, and at the versions of torch and of the device's package"
    return Finding(name, good, said[-1], advice)


def _interpreter() -> str:
    return shutil.which("python3") or sys.executable


def _python(packages: list[str], device_package: str) -> Python:
    """The Python on PATH, asked for these packages and where it finds torch and the device's; one that cannot be asked
    has none."""
    path = _interpreter()
    command = [path, "-c", INSTALLED, device_package, *packages]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return Python(path, "does not run", {}, {})
    return Python(path, *json.loads(done.stdout))
