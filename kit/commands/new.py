"""`kit new NAME URL COMMIT [FILE…] [--like RECIPE]`: a recipe to start from."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from types import MappingProxyType

from kit import beside, devices, fixes, git, output, rebase, recipes, store, underway
from kit.commands import refresh
from kit.errors import KitError
from kit.fixes import Options, Outcome
from kit.mend import mend
from kit.paths import ID, NAME, TreePath, tree_path
from kit.recipe import Recipe, Upstream
from kit.schema import fill, nearest
from kit.starter import like as starter
from kit.starter import reach

STEP = '\n[[fix]]\nid = "{id}"\n{use}files = {files}\n{count}'
TEXT = """\
# What this recipe is for, and where its figures come from.
name = {name}
title = {name}
summary = "what it trains, on which upstream"
devices = {devices}
{after}
[[upstream]]
name = {upstream}
url = {url}
pin = {pin}
version = {version}
sparse = {sparse}
{steps}"""
ENVIRONMENT = """
[environment]
python = "3.10"

[environment.packages]
# torch = "…": the versions it is known to work with
"""


def run(name: str, url: str, commit: str, files: tuple[str, ...], like: str = "") -> int:
    path = Path("recipes").absolute() / f"{name}.toml"
    if path.exists():
        raise KitError(f"{output.place(path)} exists", f"kit show {output.place(path)}")
    if not NAME.fullmatch(name):
        raise KitError(f"bad name {name!r}", "use a-z, 0-9, '.', '_' and '-'")
    if (shipped := beside.shipped_root() / beside.RECIPES / path.name).is_file() and path != shipped:
        hint = f"take another name; a variant of it is a few lines: `extends = {json.dumps(name)}`"
        raise KitError(f"{name} is a recipe of kit's, which this one would hide", hint)
    pattern = recipes.load(like) if like else None
    if pattern and not files:
        raise KitError("--like needs the training scripts", f"kit new {name} URL COMMIT FILE… --like {quote(like)}")
    targets = [tree_path(file, "FILE") for file in files]
    sparse = tuple(dict.fromkeys(TreePath(file.rpartition("/")[0]) for file in targets if "/" in file))
    title = url.rstrip("/").removesuffix(".git").rpartition("/")[2].lower()
    upstream = Upstream(title, url, commit if ID.fullmatch(commit) else _resolve(url, commit), sparse=sparse)
    draft = {"name": name, "devices": ["cpu"], "upstream": title, "url": url, "pin": upstream.pin}
    _parse(path, {**draft, "version": "", "sparse": sparse}, ENVIRONMENT)  # before anything is fetched
    modules, contents, upstream = _read(upstream, path, targets)
    entry = store.ensure(upstream, path.parent)
    known = pattern.devices if pattern else tuple(_devices(contents))
    steps, chosen, said = _steps(targets, modules, contents, [devices.load(each) for each in known])
    rest, beside_it, left, after = ENVIRONMENT, dict[str, bytes](), list[str](), list[str]()
    if pattern:
        its = {each: contents[each] for each in targets}
        rest, beside_it, left, after = starter.write(name, pattern, upstream, its, contents, modules, chosen)
        if taken := [each for each in beside_it if (path.parents[1] / each).exists()]:
            raise KitError(f"{output.place(path.parents[1] / taken[0])} exists", "move it away, or take another name")
    draft |= {"devices": list(known), "version": output.day(int(entry.date().split()[0])), "sparse": upstream.sparse}
    text, found = _parse(path, draft, steps + rest, beside_it, after)
    patches = {title: refresh.generate(found, upstream, offline=True)}
    underway.put(found.root, {**beside_it, **rebase.files(found, text, patches)})
    output.table(said)
    for each in beside_it:
        output.line(f"written: {output.place(found.root / each)}")
    output.line(f"written: {output.place(path)}")
    if left:
        output.line("left for a person:")
        output.table([(each,) for each in left])
    output.line("next:")
    on = next((each for each in known if each == "cpu"), known[0])
    commands = [f"kit show {found.called}", f"kit prepare {found.called} --device {on}"]
    if pattern:
        made = f"{name}-{on}"
        commands += [f"kit env {found.called} --device {on} --lock {made}", f"kit verify {made} --smoke"]
    for command in commands:
        output.line(f"  {command}")
    return 0


def _read(
    upstream: Upstream, path: Path, targets: list[TreePath]
) -> tuple[list[TreePath], dict[TreePath, bytes], Upstream]:
    """The modules of the upstream's own packages that the scripts reach, their content and the scripts', and the
    upstream with those packages checked out whole. Raises KitError for a script that is not there."""
    entry = store.ensure(upstream, path.parent)
    tree = entry.tree
    for each in targets:
        if each not in tree:
            raise KitError(f"{each} is not in the upstream{nearest(each, tree)}", "give its path from the top")
    contents = entry.files(targets)
    packages = [
        each
        for each in reach.packages(contents, tree)
        if not any(f"{path}/".startswith(f"{each}/") for path in targets)
    ]
    if packages:
        whole = [TreePath(each.partition("/")[0]) for each in packages]
        upstream = dataclasses.replace(upstream, sparse=tuple(dict.fromkeys([*upstream.sparse, *whole])))
        entry = store.ensure(upstream, path.parent)
        modules = [
            TreePath(each)
            for each in tree
            if each.endswith(".py") and each.startswith(tuple(f"{at}/" for at in packages))
        ]
        contents |= entry.files(modules)
    return reach.reached(targets, contents, packages) if packages else [], contents, upstream


def _devices(contents: Mapping[TreePath, bytes]) -> Iterator[str]:
    """The devices that can work: those that torch knows by itself, and those whose package the upstream names."""
    everything = b"\n".join(contents.values())
    for name in devices.names():
        device = devices.load(name)
        word = device.package or ("" if name in ("cpu", "cuda") else f"torch.backends.{name}")
        if not word or word.encode() in everything:
            yield name


def _resolve(url: str, name: str) -> str:
    """The commit a branch or tag of ``url`` is at. Raises KitError."""
    if not url.startswith(("https://", "/")) or name.startswith("-"):
        raise KitError(
            f"{name!r} of {url!r} is nothing to ask for", "give an https URL, and a branch, tag or full commit"
        )
    refs = (name, f"{name}^{{}}")
    lines = [line.split("\t") for line in git.text("ls-remote", url, *refs).splitlines()]
    if not lines:
        raise KitError(f"{url} has no {name}", f"git ls-remote {url}")
    return next((id for id, ref in lines if ref.endswith("^{}")), lines[0][0])


def _steps(
    scripts: list[TreePath], modules: list[TreePath], contents: Mapping[TreePath, bytes], its: list[devices.Device]
) -> tuple[str, list[str], list[tuple[str, ...]]]:
    """The general fixes that these files need, as the recipe's text, which they are, and what to say of each. In
    modules of a package only those that are for a library."""
    packaged = [device for device in its if device.package]
    templates = {name: getattr(fixes.load(name), "OPTIONS", {}) for name in fixes.general()}
    chosen: dict[str, Options] = {
        name: {key: fill(value, device=packaged[0]) for key, value in options.items()} if options else {}
        for name, options in templates.items()
        if packaged or not options
    }
    library = {name: options for name, options in chosen.items() if getattr(fixes.load(name), "LIBRARY", False)}
    needed: dict[str, dict[int, list[TreePath]]] = defaultdict(lambda: defaultdict(list))
    said: list[tuple[str, ...]] = []
    for path in [*scripts, *modules]:
        for each in mend(contents[path], path, library if path in modules else chosen)[0]:
            if each.outcome is Outcome.applied:
                needed[each.fix][each.places].append(path)
            if each.outcome is Outcome.applied or (path in scripts and each.outcome is not Outcome.gone):
                said.append((str(each.outcome), each.fix, path, each.reason))
    text = ""
    for fix in (name for name in chosen if name in needed):
        for number, (count, paths) in enumerate(sorted(needed[fix].items())):
            names = {"id": f"{fix}-{count}" if number else fix, "use": f'use = "{fix}"\n' if number else ""}
            more = f"count = {count}\n" if count > 1 else ""
            if templates[fix]:
                values = ", ".join(f"{key} = {json.dumps(value)}" for key, value in templates[fix].items())
                more += f"options = {{ {values} }}\ndevices = {json.dumps([each.name for each in packaged])}\n"
            text += STEP.format(**names, files=json.dumps(paths), count=more)
    return text, [name for name in chosen if name in needed], said


def _parse(
    path: Path,
    draft: Mapping[str, object],
    rest: str,
    files: Mapping[str, bytes] = MappingProxyType({}),
    after: Sequence[str] = (),
) -> tuple[str, Recipe]:
    """The text of the recipe that is to be at ``path``, beside it ``files``, ``after`` it what to type in a workspace,
    and what it says. Raises KitError where it is none."""
    said = f"next = {json.dumps(after, indent=4)}\n" if after else ""
    text = TEXT.format(**{key: json.dumps(value) for key, value in draft.items()}, after=said, steps=rest)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "recipes" / path.name
        place.parent.mkdir()
        for name, content in {**files, f"recipes/{path.name}": text.encode()}.items():
            (Path(folder) / name).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / name).write_bytes(content)
        try:
            return text, dataclasses.replace(recipes.parse(place), path=path)
        except KitError as error:
            raise KitError(error.message.replace(str(place), str(path)), error.hint) from None
