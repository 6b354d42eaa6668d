"""A workspace that came from a stranger: looking at it runs nothing of theirs and fetches nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import support
from support import Kit, Root, git, write

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
