"""A workspace that came from a stranger: looking at it runs nothing of theirs and fetches nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from support import Done, Root, git, write

Kit = Callable[..., Done]
RECIPE = "recipes/tiny.toml"
LOOKING = (("status",), ("verify",), ("diff",), ("diff", "--stat"), ("diff", "--local"))


@pytest.fixture
def made(root: Root, kit: Kit) -> Path:
    """A workspace at ./made; of upstream's files, one is outside the recipe's folders."""
    support.make_upstream(root.upstream, {"docs/far.md": "far\n"})
    root.pin = git("rev-parse", "HEAD", at=root.upstream)
    root.recipe(upstream={"sparse": ["examples"]})
    done = kit("prepare", root.place / RECIPE, "--device", "cpu", "made")
    assert (done.status, done.err) == (0, "")
    return Path("made/up")


@pytest.fixture
def trap(tmp_path: Path) -> Iterator[Path]:
    """A program that leaves a trace when it is run."""
    script = f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/ran\n'
    yield write(tmp_path, {"trap*": script}) / "trap"


def configure(*pairs: tuple[str, str]) -> Callable[[Path, str], None]:
    def change(up: Path, trap: str) -> None:
        for key, value in pairs:
            git("config", key, value.format(trap=trap), at=up)

    return change


def attributes(text: str) -> Callable[[Path, str], None]:
    """Attributes that git believes before all others: those beside the repository."""
    return lambda up, trap: (up / ".git/info/attributes").write_text(text) and None


def all_of(*changes: Callable[[Path, str], None]) -> Callable[[Path, str], None]:
    def change(up: Path, trap: str) -> None:
        for each in changes:
            each(up, trap)

    return change


def in_tree(up: Path, trap: str) -> None:
    write(up, {"examples/.gitattributes": "* filter=evil diff=evil\n"})


def edit(up: Path, trap: str) -> None:
    write(up, {"examples/train.py": "mine\n"})


def include(up: Path, trap: str) -> None:
    write(up, {".git/more": f'[filter "evil"]\n\tclean = {trap}\n\tsmudge = {trap}\n[core]\n\tfsmonitor = {trap}\n'})
    git("config", "include.path", "more", at=up)


def worktree_config(up: Path, trap: str) -> None:
    git("config", "extensions.worktreeConfig", "true", at=up)
    git("config", "--worktree", "filter.evil.clean", trap, at=up)


def lacking(up: Path, trap: str) -> None:
    """The blob of an edited file is not there: to show the change, git would fetch it from the promisor."""
    packs = (up / ".git/objects/pack").rename(up / "packs")
    for pack in packs.glob("*.pack"):
        subprocess.run(["git", "-C", str(up), "unpack-objects", "-q"], stdin=pack.open("rb"), check=True)
    shutil.rmtree(packs)
    blob = git("rev-parse", "HEAD:examples/train.py", at=up)
    (up / ".git/objects" / blob[:2] / blob[2:]).unlink()
    edit(up, trap)


EVERY = attributes("* filter=evil diff=evil\n")
TRAPS: dict[str, Callable[[Path, str], None]] = {
    "clean": all_of(EVERY, configure(("filter.evil.clean", "{trap}"))),
    "process": all_of(EVERY, configure(("filter.evil.process", "{trap}"), ("filter.evil.required", "true"))),
    "in-tree": all_of(attributes(""), in_tree, configure(("filter.evil.clean", "{trap}"))),
    "include": all_of(EVERY, include),
    "worktree-config": all_of(EVERY, worktree_config),
    "attributes-file": all_of(
        attributes(""),
        lambda up, trap: write(up, {".git/attr": "* filter=evil\n"}) and None,
        configure(("core.attributesFile", ".git/attr"), ("filter.evil.clean", "{trap}")),
    ),
    "textconv": all_of(EVERY, configure(("diff.evil.textconv", "{trap}"))),
    "diff-command": all_of(EVERY, edit, configure(("diff.evil.command", "{trap}"), ("diff.external", "{trap}"))),
    "pager": configure(("core.pager", "{trap}"), ("pager.diff", "{trap}"), ("pager.status", "{trap}")),
    "fsmonitor": configure(("core.fsmonitor", "{trap}"), ("core.fsmonitorHookVersion", "1")),
    "signature": configure(("log.showSignature", "true"), ("gpg.program", "{trap}"), ("gpg.ssh.program", "{trap}")),
    "uploadpack": all_of(
        lacking,
        configure(
            ("remote.origin.uploadpack", "{trap}"),
        ),
    ),
    "ssh": all_of(
        lacking,
        configure(
            ("remote.origin.url", "ssh://localhost/x"),
            ("core.sshCommand", "{trap}"),
        ),
    ),
}


def sign(up: Path) -> None:
    """Give the commit of the workspace a signature, and the branch and the lock the commit."""
    raw = subprocess.run(["git", "-C", str(up), "cat-file", "commit", "HEAD"], capture_output=True, check=True).stdout
    head, _, message = raw.partition(b"\n\n")
    signed = head + b"\ngpgsig -----BEGIN PGP SIGNATURE-----\n \n x\n -----END PGP SIGNATURE-----\n\n" + message
    made = subprocess.run(
        ["git", "-C", str(up), "hash-object", "-t", "commit", "-w", "--stdin"],
        input=signed,
        capture_output=True,
        check=True,
    )
    git("update-ref", "refs/heads/kit", made.stdout.decode().strip(), at=up)


@pytest.mark.parametrize("how", TRAPS)
def test_looking_runs_nothing(made: Path, root: Root, kit: Kit, tmp_path: Path, trap: Path, how: str) -> None:
    if how == "signature":
        sign(made)
    TRAPS[how](made, str(trap))
    for path in made.glob("examples/*"):
        path.touch()  # or git would trust its index and not look
    (tmp_path / "ran").unlink(missing_ok=True)
    for command in (*LOOKING, ("prepare", root.place / RECIPE, "--device", "cpu")):
        done = kit(*command, "made")
        assert done.status in (0, 1), (command, done)
        assert not (tmp_path / "ran").exists(), (command, (tmp_path / "ran").read_text())
    (tmp_path / "ran").unlink(missing_ok=True)
    for command in (("status",), ("diff",), ("log", "--max-count=1", "--patch")):
        subprocess.run(["git", "-C", str(made), *command], capture_output=True)
    if how != "pager":  # which no pipe has
        assert (tmp_path / "ran").exists()  # the trap works: the user's own git falls into it


def test_a_repository_inside_is_not_looked_into(made: Path, kit: Kit, tmp_path: Path, trap: Path) -> None:
    inner = made / "examples/inner"
    support.make_upstream(inner, {"a.py": "1\n"})
    git("config", "core.fsmonitor", str(trap), at=inner)
    git("add", "examples/inner", at=made)
    write(inner, {"a.py": "2\n"})
    for command in LOOKING:
        assert kit(*command, "made").status in (0, 1)
    assert not (tmp_path / "ran").exists()
    assert "added up/examples/inner" in kit("status", "made").out
    git("status", at=made)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("what", [".git", ".git/HEAD", ".git/index"])
@pytest.mark.parametrize("how", ["link", "pipe", "elsewhere"])
def test_what_is_no_repository_is_refused(made: Path, kit: Kit, what: str, how: str) -> None:
    (made / what).rename("moved")
    if how == "pipe":
        os.mkfifo(made / what)
    elif how == "link":
        (made / what).symlink_to(Path("moved").absolute())
    elif what == ".git":
        (made / what).write_text(f"gitdir: {Path('moved').absolute()}\n")
    else:
        (made / what).mkdir()
    before = support.snapshot(Path("moved"))
    done = kit("verify", "made")
    assert done.status == 1 and f"not a git repository of kit's: {(made / what).absolute()}" in done.out, done
    assert "unreadable up/." in kit("status", "made").out
    assert kit("diff", "--local", "made").status == 1
    assert support.snapshot(Path("moved")) == before


def test_where_one_stands_runs_nothing(made: Path, kit: Kit, tmp_path: Path, trap: Path, monkeypatch: Any) -> None:
    """`kit new` and `kit doctor` ask git without a repository: that of the folder one stands in is not read."""
    git("config", "core.sshCommand", str(trap), at=made)
    git("config", f"url.ssh://localhost/{tmp_path}.insteadOf", str(tmp_path), at=made)
    monkeypatch.chdir(made)
    kit("doctor")
    kit("new", "mine", str(tmp_path / "upstream"), "main")
    assert not (tmp_path / "ran").exists()
    subprocess.run(["git", "ls-remote", str(tmp_path / "upstream")], capture_output=True)
    assert (tmp_path / "ran").exists()


# A lock is believed only as far as kit can work it out itself.


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
    assert not [name for name in new if "/.git/objects/" not in name]
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
    backdoor(made)
    recommit(made)
    done = kit("verify", "made")
    assert kit("status", "made").out.endswith("local edits: none\n")  # the lock says so
    assert done.status == 1 and "NOT verified" in done.out
    assert re.search(
        r"FAIL  up: recipe \S+/tiny.toml makes this commit: it makes \w{40}, the lock says \w{40}", done.out
    ), done


@pytest.mark.parametrize("bit", ["--assume-unchanged", "--skip-worktree"])
@pytest.mark.parametrize("name", ["examples/train.py", "README.md"])
def test_an_edit_that_the_index_hides(made: Path, kit: Kit, bit: str, name: str) -> None:
    git("update-index", bit, name, at=made)
    assert kit("verify", "made").status == 0
    write(made, {name: "mine\n"})
    done = kit("verify", "made")
    assert done.status == 1 and f"modified up/{name}" in done.out


def test_a_folder_that_is_a_link(made: Path, kit: Kit) -> None:
    (made / "examples").rename("moved")
    (made / "examples").symlink_to(Path("moved").absolute())
    for name in git("ls-files", "examples", at=made).splitlines():
        git("update-index", "--assume-unchanged", name, at=made)
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
