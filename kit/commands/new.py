"""`kit new NAME URL COMMIT [FILE…]`: a recipe to start from."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import defaultdict
from pathlib import Path
from shlex import quote

from kit import devices, fixes, git, output, rebase, recipes, store, underway
from kit.commands import refresh
from kit.errors import KitError
from kit.fixes import Options, Outcome
from kit.mend import mend
from kit.paths import ID, NAME, TreePath, tree_path
from kit.recipe import Recipe, Upstream
from kit.schema import nearest

STEP = '\n[[fix]]\nid = "{id}"\n{use}files = {files}\n{count}'
TEXT = """\
# What this recipe is for, and where its figures come from.
name = {name}
title = {name}
summary = "what it trains, on which upstream"
devices = {devices}

[[upstream]]
name = {upstream}
url = {url}
pin = {pin}
version = {version}
sparse = {sparse}
{steps}
[environment]
python = "3.10"

[environment.packages]
# torch = "…": the versions it is known to work with
"""


def run(name: str, url: str, commit: str, files: tuple[str, ...]) -> int:
    path = Path("recipes").absolute() / f"{name}.toml"
    if path.exists():
        raise KitError(f"{output.place(path)} exists", f"kit show {output.place(path)}")
    if not NAME.fullmatch(name):
        raise KitError(f"bad name {name!r}", "use a-z, 0-9, '.', '_' and '-'")
    targets = [tree_path(file, "FILE") for file in files]
    sparse = tuple(dict.fromkeys(TreePath(file.rpartition("/")[0]) for file in targets if "/" in file))
    title = url.rstrip("/").removesuffix(".git").rpartition("/")[2].lower()
    upstream = Upstream(title, url, commit if ID.fullmatch(commit) else _resolve(url, commit), sparse=sparse)
    draft = {"name": name, "devices": devices.names(), "upstream": title, "url": url, "pin": upstream.pin}
    _parse(path, {**draft, "version": "", "sparse": sparse}, "")  # before anything is fetched
    entry = store.ensure(upstream, path.parent)
    steps, said = _steps(entry, targets)
    version = output.day(int(entry.date().split()[0]))
    text, found = _parse(path, {**draft, "version": version, "sparse": sparse}, steps)
    patches = {title: refresh.generate(found, upstream, offline=True)}
    underway.put(found.root, rebase.files(found, text, patches))
    output.table(said)
    shown = output.place(path)
    output.line(f"written: {shown}")
    output.line("next:")
    named = quote(shown)
    for command in (f"kit show {named}", f"kit prepare {named} --device {devices.names()[0]}"):
        output.line(f"  {command}")
    return 0


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


def _steps(entry: store.Entry, targets: list[TreePath]) -> tuple[str, list[tuple[str, ...]]]:
    """The general fixes that these files need, as the recipe's text, and what to say of each."""
    tree = entry.tree()
    for path in targets:
        if path not in tree:
            raise KitError(f"{path} is not in the upstream{nearest(path, tree)}", "give its path from the top")
    contents = entry.files(targets)
    chosen: dict[str, Options] = {name: {} for name in fixes.general() if not getattr(fixes.load(name), "OPTIONS", {})}
    needed: dict[str, dict[int, list[TreePath]]] = defaultdict(lambda: defaultdict(list))
    said: list[tuple[str, ...]] = []
    for path in targets:
        for each in mend(contents[path], path, chosen)[0]:
            if each.outcome is Outcome.applied:
                needed[each.fix][len(each.lines)].append(path)
            if each.outcome is not Outcome.gone:
                said.append((str(each.outcome), each.fix, path, each.reason))
    text = ""
    for fix in (name for name in chosen if name in needed):
        for number, (count, paths) in enumerate(sorted(needed[fix].items())):
            names = {"id": f"{fix}-{count}" if number else fix, "use": f'use = "{fix}"\n' if number else ""}
            text += STEP.format(**names, files=json.dumps(paths), count=f"count = {count}\n" if count > 1 else "")
    return text, said


def _parse(path: Path, draft: dict[str, object], steps: str) -> tuple[str, Recipe]:
    """The text of the recipe that is to be at ``path``, and what it says. Raises KitError where it is none."""
    text = TEXT.format(**{key: json.dumps(value) for key, value in draft.items()}, steps=steps)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "recipes" / path.name
        place.parent.mkdir()
        place.write_text(text, encoding="utf-8")
        try:
            return text, dataclasses.replace(recipes.parse(place), path=path)
        except KitError as error:
            raise KitError(error.message.replace(str(place), str(path)), error.hint) from None
