"""The levels of proof. Each says what it proved, what it skipped and why.

- tree: commits and file hashes equal the lock; local edits are listed.
- static: each fix's postcondition holds and a second application changes nothing; scripts and configs parse; every flag
  a launch script passes exists in the script it launches; every device-API call exists with those keywords.
"""

from __future__ import annotations

import ast
import contextlib
import json
import re
import shutil
import subprocess
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from kit import devicecalls, devices, expected, git
from kit.edits import edits, state
from kit.errors import KitError
from kit.expected import Expected
from kit.fixes import Outcome
from kit.fixes._ast import parse
from kit.fixes._beside import NotGiven
from kit.lock import Lock
from kit.recipe import Recipe
from kit.schema import tomllib

TOO_DEEP = "expressions too deep to read"


@dataclass(frozen=True)
class Check:
    """One thing that was proved (``ok``), found wrong (not ``ok``) or not looked at (``ok`` is None, and why)."""

    level: str
    name: str
    ok: bool | None
    detail: str = ""


def tree(place: Path, locked: Lock, found: Recipe) -> Iterator[Check]:
    """Commits and files equal the lock, and the lock what the recipe makes: it is made anew, and compared."""
    local = list(edits(place))
    changes = dict.fromkeys(str(edit) for edit in local if not edit.beside)
    made: dict[str, Expected] = {}
    try:
        made = expected.make(locked, found)
    except NotGiven as error:
        yield Check("tree", f"recipe {locked.recipe} makes it", None, f"{error.message}: {error.hint}")
    except KitError as error:
        yield Check("tree", f"recipe {locked.recipe} makes it", False, error.message)
    for name, upstream in locked.upstreams.items():
        repository = place / name
        if name in made:
            differs = made[name].differs(upstream)
            yield Check("tree", f"{name}: recipe {locked.recipe} makes this commit", not differs, differs)
            changes |= dict.fromkeys(f"{kind} {name}/{path}" for kind, path in made[name].edited(repository))
        try:
            head, below = git.text("rev-parse", "HEAD", "HEAD^{tree}", at=repository).split()
        except KitError as error:
            yield Check("tree", f"{name}: repository", False, error.message)
            continue
        yield _equal("tree", f"{name}: HEAD is the commit of the lock", head, upstream.commit)
        yield _equal("tree", f"{name}: its tree is that of the lock", below, upstream.tree)
        roots = git.run("rev-list", "--max-parents=0", "HEAD", at=repository).decode().split()
        yield _equal("tree", f"{name}: built on the pin", " ".join(roots), upstream.pin)
        wrong = [path for path, id in upstream.files.items() if state(repository / path) != id]
        written = f"{name}: {len(upstream.files)} files kit wrote have their hashes"
        yield Check("tree", written, not wrong, ", ".join(f"{repository / path}: changed" for path in wrong))
    if locked.recipe_sha256 != (now := found.sha256):
        detail = f"prepare the workspace again to have it (was {locked.recipe_sha256[:12]}, is {now[:12]})"
        yield Check("tree", f"recipe {locked.recipe} has changed since", None, detail)
    yield Check("tree", "nothing kit or upstream wrote was edited", not changes, "; ".join(changes))
    if beside := [str(edit) for edit in local if edit.beside]:
        yield Check("tree", "files beside them, not kit's", None, "; ".join(beside))


def _equal(level: str, name: str, found: str, wanted: str) -> Check:
    return Check(level, name, found == wanted, "" if found == wanted else f"found {found}, the lock says {wanted}")


def static(place: Path, locked: Lock, found: Recipe) -> Iterator[Check]:
    """What can be proved without running anything."""
    device, python = found.device(locked.device), found.environment.python
    for name, upstream in locked.upstreams.items():
        yield from _readable(f"{name}: fixes", _fixes(place / name, name, locked, found, device))
        files = [place / name / path for path in upstream.files if (place / name / path).is_file()]
        yield from _read(name, files, (".py",), f"parse{{s}} as Python {python}", lambda path: _python(path, python))
        yield from _read(name, files, (".sh",), "pass{es} bash -n", _bash)
        yield from _read(name, files, (".json",), "{is} JSON", lambda path: json.loads(path.read_bytes()))
        yield from _read(name, files, (".toml",), "{is} TOML", lambda path: tomllib.loads(path.read_text("utf-8")))
        yield from _read(name, files, (".yaml", ".yml"), "{is} YAML", _yaml)
        for path in files:
            if path.suffix == ".sh" or path.name == "programs.json":
                yield from _readable(f"{name}: flags of {path.name}", _flags(name, path))
        calls = _device_calls(name, files, device, found, place / name, upstream.pin)
        yield from _readable(f"{name}: device-API calls", calls)


def _fixes(repository: Path, name: str, locked: Lock, found: Recipe, device: devices.Device) -> Iterator[Check]:
    from kit import codemod

    for _, step in found.series(name, locked.device):
        if step.id in locked.without:
            yield Check("static", f"{name}: fix {step.id}", None, "left out with --without")
            continue
        fix = step.module
        if fix is None:
            yield Check("static", f"{name}: fix {step.id}", None, "hand-written: only its bytes are known (level tree)")
            continue
        options = step.options_for(device)
        for path in step.files:
            title = f"{name}: fix {step.id} holds in {path.rpartition('/')[2]}"
            try:
                content = (repository / path).read_bytes()
                sites = fix.sites(parse(content, str(repository / path)), options)
                result = codemod.run(fix, content, path, step.count, options)
            except NotGiven as error:
                yield Check("static", title, None, f"{error.message}: {error.hint}")
                continue
            except (OSError, KitError) as error:
                yield Check("static", title, False, str(error).splitlines()[0])
                continue
            lines = ", ".join(f"{repository / path}:{site.line}" for site in sites if not site.done)
            if not sites:
                yield Check("static", title, False, f"{repository / path}: the construct it is about is not there")
            elif lines:
                yield Check("static", title, False, f"undone at {lines}")
            else:
                again = result.outcome is Outcome.satisfied and result.content == content
                yield Check("static", title, again, "" if again else "a second application would change the file")


def _read(
    name: str, files: list[Path], suffixes: tuple[str, ...], what: str, reader: Callable[[Path], object]
) -> Iterator[Check]:
    """Files of a kind: one check for all that read well, one for each that does not."""
    one, many = {"s": "s", "es": "es", "is": "is"}, {"s": "", "es": "", "is": "are"}
    good = []
    for path in (each for each in files if each.suffix in suffixes):
        try:
            reader(path)
        except (MemoryError, RecursionError):  # what Python's parsers make of a thousand brackets
            said = f"{path}:1: {TOO_DEEP}"
        except (SyntaxError, ValueError) as error:
            said = f"{path}:{getattr(error, 'lineno', None) or 1}: {str(error).splitlines()[0]}"
        else:
            good.append(path.name)
            continue
        yield Check("static", f"{name}: {path.name} {what.format(**one)}", False, said)
    if good:
        title = f"{good[0]} {what.format(**one)}" if len(good) == 1 else f"{len(good)} files {what.format(**many)}"
        yield Check("static", f"{name}: {title}", True)


def _readable(title: str, checks: Iterator[Check]) -> Iterator[Check]:
    """The checks; where a file is too deep for them, that is one that failed."""
    try:
        yield from checks
    except (MemoryError, RecursionError):
        yield Check("static", title, False, f"a script has {TOO_DEEP}")


def _python(path: Path, version: str) -> None:
    """Parse with the grammar of the recipe's Python, as far as this Python knows it."""
    _compiles(path.read_bytes(), path.name, version)


@lru_cache(maxsize=256)  # a recipe's workspaces have most files in common
def _compiles(content: bytes, name: str, version: str) -> None:
    major, minor = map(int, version.split(".")[:2])
    with warnings.catch_warnings():  # an invalid escape in upstream's strings is not ours to report
        warnings.simplefilter("ignore")
        ast.parse(content, name, feature_version=(major, minor))
        compile(content, name, "exec", dont_inherit=True)


def _bash(path: Path) -> None:
    bash = shutil.which("bash")
    if not bash:
        raise ValueError("bash was not found on PATH")
    done = subprocess.run([bash, "-n", str(path)], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip() or "bash -n failed")


def _yaml(path: Path) -> None:
    import yaml

    try:
        yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def launched(script: str) -> dict[str, dict[str, int]]:
    """The Python scripts a shell script runs, each with the flags it passes them and the line of each.

    A script's name is its path from `$here`, the shell script's folder, where it is written so. Both ways of writing a
    command are read: flags after the script's name, over continued lines, and a bash array that holds the script's name
    and is added to.
    """
    found: dict[str, dict[str, int]] = {}
    arrays: dict[str, str] = {}
    here = r"(?ms)(?<=<<)-?['\"]?(\w+)['\"]?[^\n]*\n.*?^\t*\1$"  # a here-document is no command; its lines still count
    code = re.sub(here, lambda match: "\n" * match[0].count("\n"), script)
    code = re.sub(r"(?m)(^|[ \t])#.*$", lambda match: " " * len(match[0]), code)
    for match in re.finditer(r"(?ms)\b(\w+)(\+?)=\((.*?)\)\s*(?:$|;|\|\|)", code):
        name, added, content = match[1], match[2], match[3]
        target = re.search(_SCRIPT + r"\b", content)
        if target and not added:
            arrays[name] = target[1]
        if name in arrays:
            after = content[target.end() :] if target and not added else content
            _note_flags(found, arrays[name], after, code, match.start(3) + len(content) - len(after))
    joined = code.replace("\\\n", " \r")  # a continued line is one line; the \r still counts
    for match in re.finditer(rf"(?m)^[^\n(]*?{_SCRIPT}[\"']?[ \t\r]+([^\n]*)$", joined):
        if re.search(r"(^|\s)--\w", match[2]):
            _note_flags(found, match[1], match[2], joined, match.start(2))
    return found


_SCRIPT = r"((?:(?<=\$here/)(?:[\w.-]+/)*)?[\w.-]+\.py)"


def _note_flags(found: dict[str, dict[str, int]], target: str, text: str, code: str, offset: int) -> None:
    for flag in re.finditer(r"(?:^|\s)(--[A-Za-z0-9][\w-]*)", text):
        above = code[: offset + flag.start(1)]
        line = above.count("\n") + above.count("\r") + 1
        found.setdefault(target, {}).setdefault(flag[1], line)


def parser_flags(source: bytes, name: str, beside: Path | None = None) -> set[str]:
    """The flags of every `add_argument` in a script, and in the modules it imports from the folder ``beside`` it."""
    tree = parse(source, name)
    flags = _arguments(tree)
    for file in _imported(tree, beside) if beside else ():
        with contextlib.suppress(KitError):  # that it does not parse is a failure of its own
            flags |= _arguments(parse(file.read_bytes(), str(file)))
    return flags


def _imported(tree: ast.Module, folder: Path) -> set[Path]:
    """The files below a folder that a script there imports at its top."""
    names = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = (folder / f"{name.replace('.', '/')}.py" for name in names)
    return {file for file in files if file.is_file()}


def _arguments(tree: ast.Module) -> set[str]:
    return {
        argument.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
        for argument in node.args
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str) and argument.value.startswith("--")
    }


def _flags(name: str, path: Path) -> Iterator[Check]:
    """The flags that a shell script, or the programs of a launcher's table, pass to Python scripts."""
    if path.suffix == ".sh":
        passed = [(path, target, flags) for target, flags in launched(path.read_text("utf-8", "replace")).items()]
    else:
        passed = list(_of_programs(path))
    for launching, target, flags in passed:
        script = launching.parent / target
        title = f"{name}: the {len(flags)} flags {launching.name} passes exist in {target}"
        if not script.is_file():
            yield Check("static", title, False, f"{path}: there is no {script}")
            continue
        try:
            known = parser_flags(script.read_bytes(), str(script), script.parent)
        except KitError as error:
            yield Check("static", title, False, error.message)
            continue
        unknown = {flag: line for flag, line in flags.items() if flag not in known}
        wrong = "; ".join(f"{path}:{line}: {flag} is not an option of {target}" for flag, line in unknown.items())
        yield Check("static", title, not unknown, wrong)


def _of_programs(table: Path) -> Iterator[tuple[Path, str, dict[str, int]]]:
    """The launch scripts that launcher/programs.json is about, each with the training script it starts and the flags
    its settings fill, by their line in the table. Nothing where it is no such table."""
    with contextlib.suppress(AttributeError, KeyError, RecursionError, TypeError, ValueError):
        text = table.read_text("utf-8")
        at = 0
        for name, program in json.loads(text).items():
            at = max(text.find(json.dumps(name), at), 0)
            flags = {f"--{flag}": json.dumps(flag) for option in program["options"] for flag in option.get("flags", ())}
            script = table.parents[1] / name
            if flags and script.is_file():  # one that is not for this device is not there
                found = {flag: text.count("\n", 0, text.find(quoted, at)) + 1 for flag, quoted in flags.items()}
                yield script, str(program["script"]), found


def _device_calls(
    name: str, files: list[Path], device: devices.Device, found: Recipe, repository: Path, pin: str
) -> Iterator[Check]:
    """The calls into the device's package on lines that kit wrote, held against its published API. What upstream itself
    calls is its own: of that, what the list does not have is said."""
    title = f"{name}: device-API calls exist in {device.package or device.name}"
    signatures = devices.signatures(device.name, found.roots, device.packages.get(device.package, ""))
    if not device.package:
        yield Check("static", title, None, f"{device.title} needs no device package")
        return
    if not signatures:
        yield Check("static", title, None, f"there is no {device.name}.api.toml beside the profile to check against")
        return
    calls, wrong, theirs = devicecalls.read(files, repository, pin, device, signatures)
    if calls:
        title = f"{name}: {calls} device-API calls exist in {device.package}"
        yield Check("static", title, not wrong, "; ".join(wrong))
    else:
        yield Check("static", title, None, f"no file kit wrote calls {device.package}")
    if theirs:
        what = f"{name}: upstream's own calls that {device.name}.api.toml does not list"
        yield Check("static", what, None, "; ".join(theirs))
