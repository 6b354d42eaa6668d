"""git is run apart from its caller's environment, and from what upstream or the user's configuration would run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import support
from support import Kit, Root, git, write

from kit import git as kit_git
from kit.errors import KitError


def prepare(root: Root, kit: Kit) -> Path:
    done = kit("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", "made")
    assert (done.status, done.err) == (0, "")
    return Path("made/up")


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE", "GIT_COMMON_DIR"]
)
def test_the_callers_repository_is_left_alone(
    root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    mine = tmp_path / "mine"
    support.make_upstream(mine, {"a": "1\n"})
    before = support.snapshot(mine)
    places = {
        "GIT_WORK_TREE": mine,
        "GIT_INDEX_FILE": mine / ".git/index",
        "GIT_OBJECT_DIRECTORY": mine / ".git/objects",
    }
    monkeypatch.setenv(name, str(places.get(name, mine / ".git")))
    made = prepare(root, kit)
    monkeypatch.delenv(name, raising=False)  # kit forgets it
    assert git("status", "--porcelain", at=made) == ""
    assert support.snapshot(mine) == before


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "GIT_DIR": "x", "GIT_EDITOR": "x", "GIT_SSL_CAINFO": "ca"})
    assert kit_git.environment(Path("/index")) == {
        "PATH": "/bin",
        "GIT_SSL_CAINFO": "ca",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
        "GIT_INDEX_FILE": "/index",
    }


def test_no_hook_runs(root: Root, kit: Kit, tmp_path: Path) -> None:
    names = ("post-checkout", "post-index-change", "reference-transaction", "post-commit", "pre-commit")
    hooks = {f"hooks/{name}*": f"#!/bin/sh\ntouch {tmp_path}/ran\n" for name in names}
    template = write(tmp_path / "template", hooks)
    git("config", "--global", "init.templateDir", str(template), at=Path())
    git("config", "--global", "core.hooksPath", str(template / "hooks"), at=Path())
    git("config", "--global", "core.fsmonitor", str(template / "hooks/pre-commit"), at=Path())
    made = prepare(root, kit)
    assert not (tmp_path / "ran").exists() and not (made / ".git/hooks").exists()
    git("checkout", "--quiet", "-b", "mine", at=made)
    assert (tmp_path / "ran").exists()  # the trap works: the user's own git falls into it


SETTINGS = {
    "autocrlf": ("core.autocrlf", "true"),
    "eol": ("core.eol", "crlf"),
    "external-diff": ("diff.external", "false"),
    "excludes": ("core.excludesFile", "/dev/stdin"),
    "file-mode": ("core.fileMode", "false"),
    "symlinks": ("core.symlinks", "false"),
    "sha256": ("init.defaultObjectFormat", "sha256"),
    "sign": ("commit.gpgSign", "true"),
    "untracked": ("status.showUntrackedFiles", "no"),
    "object-format": ("core.sharedRepository", "group"),
}


@pytest.mark.parametrize(("key", "value"), SETTINGS.values(), ids=SETTINGS)
def test_the_users_configuration_changes_no_byte(root: Root, kit: Kit, key: str, value: str) -> None:
    write(root.upstream, {"examples/dos.txt": "one\r\ntwo\r\n", "examples/tool.sh*": "#!/bin/sh\n"})
    pin = support.make_upstream(root.upstream, {"more": "x\n"})
    root.recipe(upstream={"pin": pin})
    made = prepare(root, kit)
    plain = {name: content for name, content in support.snapshot(made).items() if not name.startswith(".git/")}
    head = git("rev-parse", "HEAD", at=made)
    Path("made").rename("first")
    git("config", "--global", key, value, at=Path())
    made = prepare(root, kit)
    assert {name: content for name, content in support.snapshot(made).items() if not name.startswith(".git/")} == plain
    assert git("rev-parse", "HEAD", at=made) == head
    assert plain["examples/dos.txt"][1] == b"one\r\ntwo\r\n"
    assert kit("verify", "made").status == 0
    for path in made.glob("examples/*"):
        path.touch()  # or git would trust its index and not look
    assert git("status", "--porcelain", at=made) == ""


ATTRIBUTES = """\
*.bin filter=lfs diff=lfs merge=lfs -text
*.txt text eol=crlf
*.id ident
*.wide working-tree-encoding=UTF-16
examples/*.py filter=evil
"""


def test_upstreams_attributes_change_no_byte(root: Root, kit: Kit, tmp_path: Path) -> None:
    trap = f"touch {tmp_path}/ran; cat"
    files: dict[str, str | bytes] = {
        ".gitattributes": ATTRIBUTES,
        "examples/a.bin": "version https://git-lfs.github.com/spec/v1\n",
        "examples/a.txt": "one\ntwo\n",
        "examples/a.id": "$Id$\n",
        "examples/a.wide": "wide\n".encode("utf-16"),
    }
    pin = support.make_upstream(root.upstream, files)
    for name in ("lfs", "evil"):
        git("config", "--global", f"filter.{name}.smudge", trap, at=Path())
        git("config", "--global", f"filter.{name}.clean", trap, at=Path())
        git("config", "--global", f"filter.{name}.required", "true", at=Path())
    fix = [{"id": "weights-pop", "files": ["examples/train.py"]}]
    root.overlay({"b.txt": "three\n"})
    path = root.recipe(upstream={"pin": pin}, fix=fix)
    (root.patches() / "02-progress-print.patch").unlink()
    assert kit("refresh", path).status == 0
    made = prepare(root, kit)
    kept = {name: (made / name).read_bytes() for name in files}
    assert kept == {name: kit_git.run("cat-file", "blob", f"HEAD:{name}", at=made) for name in files}
    assert kept["examples/a.txt"] == b"one\ntwo\n" and kept["examples/a.wide"] == b"wide\n"
    assert (made / "examples/b.txt").read_bytes() == b"three\n"
    done = kit("verify", "made")
    assert done.status == 0, done.out
    assert not (tmp_path / "ran").exists()


def test_no_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(KitError) as refused:
        kit_git.run("status")
    assert str(refused.value) == "git was not found on PATH\n  install git 2.29 or newer, then run `kit doctor`"
    assert kit_git.version() is None


def test_its_first_complaint(tmp_path: Path) -> None:
    with pytest.raises(kit_git.GitError) as refused:
        kit_git.run("rev-parse", "HEAD", at=tmp_path)
    assert refused.value.message.startswith(
        f"git rev-parse failed in {tmp_path}: fatal: not a git repository of kit's: {tmp_path}"
    )


def test_progress(tmp_path: Path) -> None:
    files = {f"{number}.txt": f"{number}\n" for number in range(120)}
    support.make_upstream(tmp_path / "up", files)
    kit_git.run("init", "--quiet", "--bare", tmp_path / "copy")
    seen: list[tuple[float, float]] = []
    url = str(tmp_path / "up")
    kit_git.fetch(tmp_path / "copy", url, "main", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 120 and seen == sorted(seen)


def test_what_stands_in_for_its_configuration_is_made_once(tmp_path: Path) -> None:
    up = tmp_path / "up"
    head = support.make_upstream(up)
    made = [kit_git.text("rev-parse", name, at=up) for name in ("HEAD", "main")]
    (folder,) = (tmp_path / "scratch").iterdir()
    git("tag", "mine", at=up)
    git("pack-refs", "--all", at=up)  # what the repository has by now is seen
    assert [*made, kit_git.text("rev-parse", "mine", at=up)] == [head] * 3
    write(up, {"new": "x\n", ".git/info/exclude": "new\n"})
    assert kit_git.text("status", "--porcelain", at=up) == "" and folder.is_dir()


def test_nothing_is_left_of_it(root: Root, tmp_path: Path) -> None:
    argv = ("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", "made")
    assert support.kit_process(*argv).status == 0
    assert support.kit_process("status", "made").status == 0
    assert list((tmp_path / "scratch").iterdir()) == []
