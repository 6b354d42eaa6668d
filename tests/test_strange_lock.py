"""A lock that came from a stranger is believed only as far as kit can work it out itself."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
from support import Kit, Root, git, write
from test_stranger import LOOKING, RECIPE


def forge(change: Callable[[dict[str, Any]], object]) -> None:
    """Change ./made's lock, and its hash with it."""
    body = json.loads(Path("made/kit.lock").read_text())
    del body["sha256"]
    change(body)
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    Path("made/kit.lock").write_text(json.dumps({**body, "sha256": digest}))


def up_is(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["upstreams"]["up"].update(changes)


def fix_is(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda body: body["upstreams"]["up"]["fixes"][0].update(changes)


def called(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda body: body.update(upstreams={name: body["upstreams"]["up"]})


ID = "0" * 40
FORGED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "commit is an option": (up_is(commit="--output=/tmp/escaped"), "upstreams.up.commit"),
    "pin is an option": (up_is(pin="--output=escaped"), "upstreams.up.pin"),
    "tree is a name": (up_is(tree="HEAD"), "upstreams.up.tree"),
    "overlay's commit is an option": (up_is(overlay_commit="-x"), "upstreams.up.overlay_commit"),
    "a fix's commit is an option": (fix_is(commit="--output=escaped"), "upstreams.up.fixes.commit"),
    "a fix's commit is a name": (fix_is(commit="HEAD"), "upstreams.up.fixes.commit"),
    "an id of 41 digits": (up_is(commit=ID + "0"), "upstreams.up.commit"),
    "an id and a line": (up_is(commit=ID + "\n"), "upstreams.up.commit"),
    "a name that leaves": (called("../../other"), "upstreams"),
    "a name of dots": (called(".."), "upstreams"),
    "an absolute name": (called("/etc"), "upstreams"),
    "a name within": (called("up/examples"), "upstreams"),
    "a file that leaves": (up_is(files={"../../x": f"100644 {ID}"}), "upstreams.up.files"),
    "a file in .git": (up_is(files={".git/config": f"100644 {ID}"}), "upstreams.up.files"),
    "a link": (up_is(files={"a": f"120000 {ID}"}), "upstreams.up.files"),
    "a fix's file that leaves": (fix_is(files={"/etc/passwd": ID}), "upstreams.up.fixes.files"),
    "a fix's id": (fix_is(id="--help"), "upstreams.up.fixes.id"),
    "files in a list": (up_is(files=[]), "upstreams.up.files must be a table"),
    "a commit that is a number": (up_is(commit=1), "upstreams.up.commit must be a string"),
    "fixes in a table": (up_is(fixes={}), "upstreams.up.fixes must be a list"),
    "a recipe that is a list": (lambda body: body.update(recipe=["tiny"]), "recipe must be a string"),
    "without numbers": (lambda body: body.update(without=[1]), "without must be a string"),
    "an unknown key": (lambda body: body.update(more=1), "unknown key 'more'"),
    "no upstreams": (lambda body: body.pop("upstreams"), "the recipe's upstreams are not the lock's: up"),
    "an unknown option": (lambda body: body.update(options={"x": "1"}), "has no option 'x'"),
    "an unknown extra": (lambda body: body.update(extras=["x"]), "has no extra fix 'x'"),
    "an option that is a table": (lambda body: body.update(options={"x": {}}), "options.x must be "),
    "a machine that is none": (lambda body: body["cluster"].update(machines="1"), "cluster.machines must be "),
    "a device that is none": (lambda body: body.update(device="../x"), "device '../x'"),
    "no recipe": (lambda body: body.update(recipe="../../x"), "unknown recipe '../../x'"),
    "half a character": (lambda body: body.update(recipe="\ud800"), "unknown recipe "),
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_lock_is_refused(made: Path, root: Root, kit: Kit, tmp_path: Path, how: str) -> None:
    change, said = FORGED[how]
    forge(change)
    before = support.snapshot(tmp_path)
    done = kit("verify", "made")
    assert done.status == 1 and said in done.err + done.out, done
    for command in (*LOOKING, ("refresh", "--fix", "x", "--why", "y", "--from")):
        assert kit(*command, "made").status in (0, 1), command
    new = support.snapshot(tmp_path).keys() - before.keys()
    # scratch is $TMPDIR, where kit keeps git's settings for as long as its process lives
    assert not [name for name in new if "/.git/objects/" not in name and not name.startswith("scratch/kit-")]
    assert not Path("/tmp/escaped").exists()


NO_LOCKS = {
    "deep table": '{"a":' * 100_000,
    "deep list": "[" * 100_000,
    "long number": '{"sha256": ' + "9" * 5000 + "}",
    "zero byte": "\0",
    "half a character": '"\\ud800"',
}


@pytest.mark.parametrize("text", NO_LOCKS.values(), ids=NO_LOCKS)
def test_a_lock_that_is_none(made: Path, kit: Kit, text: str) -> None:
    Path("made/kit.lock").write_text(text)
    for command in LOOKING:
        done = kit(*command, "made")
        assert done.status == 1 and "kit.lock:1: not a lock of this kit: " in done.err and len(done.err) < 500, done


def backdoor(up: Path) -> None:
    write(up, {"examples/train.py": (up / "examples/train.py").read_text() + "import evil\n"})
    git("add", "examples/train.py", at=up)


def recommit(up: Path) -> None:
    """The last commit made anew with what is in the index, in kit's own name, and the lock made to fit."""
    who = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in IDENTITY.items()}
    date = git("log", "-1", "--format=%ct +0000", at=up)
    when = {f"GIT_{who}_DATE": date for who in ("AUTHOR", "COMMITTER")}
    git("commit", "--quiet", "--amend", "--no-edit", "--date", date, at=up, **{**who, **when})
    commit, tree = git("rev-parse", "HEAD", "HEAD^{tree}", at=up).split()
    files = {
        line.split("\t")[1]: line.split()[0] + " " + line.split()[2]
        for line in git("ls-tree", "-r", "HEAD", at=up).splitlines()
    }

    def change(body: dict[str, Any]) -> None:
        locked = body["upstreams"]["up"]
        locked.update(commit=commit, tree=tree, overlay_commit=commit)
        locked["files"] = {path: files.get(path, id) for path, id in locked["files"].items()}
        for fix in locked["fixes"]:
            fix["files"] = {path: files[path].split()[1] for path in fix["files"]}

    forge(change)
    shutil.rmtree(up / ".git/logs", ignore_errors=True)  # or what was there before would be found


IDENTITY = {"NAME": "kit", "EMAIL": "kit@localhost"}


def test_a_backdoor_that_the_lock_agrees_with(made: Path, kit: Kit) -> None:
    assert kit("verify", "made").status == 0
    backdoor(made / "up")
    recommit(made / "up")
    done = kit("verify", "made")
    assert kit("status", "made").out.endswith("local edits: none\n")  # the lock says so
    assert done.status == 1 and "NOT verified" in done.out
    assert re.search(
        r"FAIL  up: recipe \S+/tiny.toml makes this commit: it makes \w{40}, the lock says \w{40}", done.out
    ), done


@pytest.mark.parametrize("bit", ["--assume-unchanged", "--skip-worktree"])
@pytest.mark.parametrize("name", ["examples/train.py", "README.md"])
def test_an_edit_that_the_index_hides(made: Path, kit: Kit, bit: str, name: str) -> None:
    git("update-index", bit, name, at=made / "up")
    assert kit("verify", "made").status == 0
    write(made / "up", {name: "mine\n"})
    done = kit("verify", "made")
    assert done.status == 1 and f"modified up/{name}" in done.out


def test_a_folder_that_is_a_link(made: Path, kit: Kit) -> None:
    (made / "up/examples").rename("moved")
    (made / "up/examples").symlink_to(Path("moved").absolute())
    for name in git("ls-files", "examples", at=made / "up").splitlines():
        git("update-index", "--assume-unchanged", name, at=made / "up")
    done = kit("verify", "made")
    assert done.status == 1 and "modified up/examples/train.py" in done.out


def test_the_recipe_is_another(made: Path, root: Root, kit: Kit) -> None:
    path = root.place / RECIPE
    path.write_text(path.read_text() + "# a word\n")
    done = kit("verify", "made")
    assert done.status == 0 and "has changed since" in done.out  # and makes the same
    root.overlay({"helper.py": "SPEED = 12\n"})
    done = kit("verify", "made")
    assert done.status == 1 and "the lock says" in done.out and "recipe, kit or overlay is another" in done.out
    shutil.rmtree(root.upstream)
    shutil.rmtree(os.environ["KIT_CACHE"])
    done = kit("verify", "made")
    assert done.status == 1 and "makes it: " in done.out and "cannot be reached" in done.out
