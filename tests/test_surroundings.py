"""What kit meets on other machines: odd names, full disks, silent servers, damaged and shared caches, other gits."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote

import pytest
import support
from support import Done, Kit, Root, git, write

from kit import git as kit_git
from kit import workspace

RECIPE = "recipes/tiny.toml"
ODD = os.fsdecode(b"odd\xff")


def prepare(root: Root, kit: Kit, *more: str) -> Done:
    return kit("prepare", root.place / RECIPE, "--device", "cpu", *(more or ("made",)))


# Names and streams.


def test_names_that_are_not_utf8(root: Root, kit: Kit) -> None:
    """A folder, a file beside kit's, a script: all of them are shown, none is a bug."""
    assert prepare(root, kit, ODD).status == 0
    write(Path(ODD), {f"up/{ODD}.py": support.TRAIN})
    for command in (
        ("status",),
        ("status", "--json"),
        ("verify",),
        ("diff", "--local"),
        ("verify", "--report", f"{ODD}.html"),
    ):
        done = kit(*command, ODD)
        assert done.status == 0, (command, done)
    for place in ("no/where.html", "."):
        assert kit("verify", "--report", place, ODD).status == 1
    assert kit("fix", f"{ODD}/up/{ODD}.py").status == 1
    assert kit("fix", ODD + "none").status == 1
    assert kit("show", f"{ODD}.toml").status == 1


@pytest.mark.parametrize("how", ["overlay", "upstream", "recipe", "carried"])
def test_names_of_a_recipe_that_are_not_utf8(root: Root, kit: Kit, how: str) -> None:
    if how == "overlay":
        root.overlay({f"{ODD}.py": "x\n"})
    elif how == "upstream":
        pin = support.make_upstream(root.upstream, {f"{ODD}.py": "x\n"})
        root.recipe(upstream={"pin": pin})
        assert prepare(root, kit).status == 0 and kit("verify", "made").status == 0
        return
    elif how == "recipe":
        path = root.place / "recipes" / f"{ODD}.toml"
        (root.place / RECIPE).rename(path)
        assert kit("prepare", path, "--device", "cpu", "made").status == 1
        return
    else:
        write(root.place / "recipes/tiny", {f"{ODD}.py": "x\n"})
        root.recipe(upstream={"url": "tiny", "pin": "0" * 40}, fix=None)
    done = prepare(root, kit)
    assert done.status == 1 and "is not UTF-8" in done.err, done


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16"])
def test_a_stream_that_is_not_utf8(root: Root, encoding: str) -> None:
    root.recipe(title="Tiny 微小 é")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    for command in ((), ("--json",)):
        argv = support.kit_argv("show", root.place / RECIPE, *command)
        done = subprocess.run(argv, env=environment, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b""), done


def test_the_next_commands_can_be_typed(root: Root, kit: Kit) -> None:
    done = prepare(root, kit, "a folder; ls $HOME")
    assert done.status == 0 and f"  kit verify {quote('a folder; ls $HOME')}\n" in done.out


# Full disks and damage.


def fake_git(place: Path, when: str, then: str) -> None:
    """A git before all others on PATH that does ``then`` where ``when`` is among its words."""
    real = shutil.which("git")
    script = f'#!/bin/sh\nfor word; do if [ "$word" = {when} ]; then {then}; fi; done\nexec {real} "$@"\n'
    write(place, {"git*": script})


@pytest.mark.parametrize("command", ["fetch", "fast-import", "read-tree", "init", "update-ref"])
def test_a_full_disk_is_called_that(
    root: Root, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    fake_git(tmp_path / "bin", command, "echo 'fatal: cannot write: No space left on device' >&2; exit 128")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    done = prepare(root, kit)
    assert done.status == 1 and "No space left on device" in done.err and "  the disk is full: make room" in done.err
    assert not Path("made").exists() and list(Path().iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_in_python(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(Path(os.environ["KIT_CACHE"]) / "x"))

    monkeypatch.setattr(workspace, "_stage", full)
    done = prepare(root, kit)
    assert done.status == 1 and done.err.endswith(
        "  the disk is full: make room, or set KIT_CACHE to another folder, then try again\n"
    )


def packs(kind: str) -> list[Path]:
    return sorted(Path(os.environ["KIT_CACHE"]).rglob(f"*.{kind}"), key=lambda path: -path.stat().st_size)


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[], object]] = {
    "a pack is cut": lambda: [os.truncate(path, path.stat().st_size // 2) for path in packs("pack")],
    "a pack is changed": lambda: [
        path.chmod(0o644) or path.write_bytes(bytes(path.stat().st_size)) for path in packs("pack")
    ],
    "the packs are gone": lambda: [path.unlink() for path in packs("pack")],
    "an index is empty": lambda: [overwrite(path, b"") for path in packs("idx")],
    "no HEAD": lambda: [path.unlink() for path in Path(os.environ["KIT_CACHE"]).rglob("HEAD")],
    "no objects": lambda: [shutil.rmtree(path) for path in Path(os.environ["KIT_CACHE"]).rglob("objects")],
}


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_cache_names_the_folder(root: Root, kit: Kit, how: str) -> None:
    assert prepare(root, kit).status == 0
    shutil.rmtree("made")
    (entry,) = [path.parent for path in Path(os.environ["KIT_CACHE"]).rglob("HEAD")]
    DAMAGE[how]()
    done = prepare(root, kit)
    assert done.status == 1 and f"rm -r {entry}" in done.err, done
    shutil.rmtree(entry)
    assert prepare(root, kit).status == 0 and kit("verify", "made").status == 0


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_history_names_the_folder_or_is_fetched_again(root: Root, kit: Kit, how: str) -> None:
    command = ("drift", root.place / RECIPE, "--history", "--json")
    whole = kit(*command)
    assert whole.status == 0, whole
    cache = Path(os.environ["KIT_CACHE"])
    (entry,) = (cache / "history").glob("*[!k]")
    DAMAGE[how]()
    (cache / "drift.sqlite").unlink()
    done = kit(*command)
    if done.status:
        assert done.status == 1 and f"rm -r {entry}" in done.err, done
        shutil.rmtree(entry)
        done = kit(*command)
    assert done.json == whole.json


def test_a_damaged_file_of_the_cache_is_named(root: Root, kit: Kit) -> None:
    cache = Path(os.environ["KIT_CACHE"])
    write(cache, {"drift.sqlite": "x" * 1000, "environments/demo-cpu/kit-environment.json": "{"})
    done = kit("drift", root.place / RECIPE)
    assert done.status == 1 and f"rm {cache}/drift.sqlite" in done.err, done
    done = kit("env", "demo", "--list")
    assert done.status == 1 and f"rm -r {cache}/environments/demo-cpu" in done.err, done


# Servers.


@contextlib.contextmanager
def server(answer: bytes, hold: bool) -> Iterator[int]:
    """A port where each caller gets ``answer`` and then silence, or the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        calls: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    call, _ = listening.accept()
                    call.sendall(answer)
                    calls.append(call) if hold else call.close()

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        for call in calls:
            call.close()


@pytest.mark.parametrize("scheme", ["git", "http"])
@pytest.mark.parametrize("hold", [True, False], ids=["silent", "cut"])
def test_a_server_that_is_silent_or_cut(
    root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch, scheme: str, hold: bool
) -> None:
    """The user's own insteadOf may lead to one that speaks git or http."""
    monkeypatch.setattr(kit_git, "SILENT", 1)
    url = "https://example.com/up.git"
    root.recipe(upstream={"url": url})
    with server(b"HTTP/1.1 200 OK\r\n" if scheme == "http" else b"", hold) as port:
        git("config", "--global", f"url.{scheme}://127.0.0.1:{port}/.insteadOf", "https://example.com/", at=Path())
        done = prepare(root, kit)
    assert done.status == 1 and done.err.startswith(f"kit: error: {url} cannot be reached: "), done
    assert "  check the network, or tell git where a mirror is: git config --global url." in done.err
    assert "not allowed" not in done.err and (not hold or "timed out" in done.err or "too slow" in done.err)


def test_a_mirror_that_speaks_git(root: Root, kit: Kit, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    serve = ["git", "daemon", "--export-all", f"--base-path={tmp_path}", "--listen=127.0.0.1", f"--port={port}"]
    daemon = subprocess.Popen(serve, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        else:
            pytest.skip("git daemon is not installed")
        git("config", "--global", f"url.git://127.0.0.1:{port}/.insteadOf", "https://example.com/", at=Path())
        root.recipe(upstream={"url": "https://example.com/upstream"})
        done = prepare(root, kit)
    finally:
        daemon.terminate()
        daemon.wait()
    assert (done.status, done.err) == (0, ""), done


def test_a_transport_that_no_one_chose(root: Root, kit: Kit) -> None:
    git("config", "--global", "url.ext::sh -c true/.insteadOf", "https://example.com/", at=Path())
    root.recipe(upstream={"url": "https://example.com/up.git"})
    done = prepare(root, kit)
    assert done.status == 1 and "transport 'ext' not allowed" in done.err


# Caches and configurations.


def test_home_in_the_cache_s_name(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIT_CACHE", "~/mine")
    assert prepare(root, kit).status == 0
    assert (Path.home() / "mine/upstreams").is_dir() and not Path("~").exists()
    monkeypatch.setenv("KIT_CACHE", "~nobody-at-all/mine")
    done = prepare(root, kit)
    assert done.status == 1 and "KIT_CACHE=~nobody-at-all/mine: there is no such user" in done.err


def test_a_cache_that_cannot_be_written(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that holds all is enough; one that does not says KIT_CACHE."""
    assert prepare(root, kit).status == 0
    cache = Path(os.environ["KIT_CACHE"])
    real = Path.mkdir

    def mkdir(path: Path, *arguments: object, **options: object) -> None:
        if path.is_relative_to(cache) and not path.is_dir():
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert prepare(root, kit, "second").status == 0
    assert kit("verify", "second").status == 0
    shutil.rmtree(cache)
    done = prepare(root, kit, "third")
    assert done.status == 1 and "or set KIT_CACHE to another folder, then try again" in done.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_a_cache_and_a_mirror_of_another_user(root: Root, kit: Kit) -> None:
    assert prepare(root, kit).status == 0
    for path in (Path(os.environ["KIT_CACHE"]), *Path(os.environ["KIT_CACHE"]).rglob("*"), *Path("made").rglob("*")):
        os.chown(path, 12345, 12345)
    assert prepare(root, kit, "second").status == 0
    assert kit("verify", "second", "made").status == 0
    shutil.rmtree(os.environ["KIT_CACHE"])
    for path in (root.upstream, *root.upstream.rglob("*")):
        os.chown(path, 12345, 12345, follow_symlinks=False)
    done = prepare(root, kit, "third")
    assert done.status == 0 or "git config --global --add safe.directory" in done.err, done


CONFIGURATIONS = {
    "signature": {"log.showSignature": "true", "gpg.program": "false"},
    "bare": {"safe.bareRepository": "explicit"},
    "colour": {"color.ui": "always"},
    "prefix": {"diff.noprefix": "true", "diff.mnemonicPrefix": "true"},
    "pretty": {"format.pretty": "oneline", "log.decorate": "full", "log.date": "relative"},
    "order": {"diff.orderFile": "/nowhere", "status.relativePaths": "false", "status.branch": "true"},
    "refs": {"extensions.refStorage": "files", "core.logAllRefUpdates": "always"},
}


@pytest.mark.parametrize("how", CONFIGURATIONS)
def test_the_users_configuration(root: Root, kit: Kit, how: str) -> None:
    for key, value in CONFIGURATIONS[how].items():
        git("config", "--global", key, value, at=Path("/"))
    done = prepare(root, kit)
    assert (done.status, done.err) == (0, ""), done
    assert kit("verify", "made").status == 0 and kit("status", "made").out.endswith("local edits: none\n")


def test_no_git(root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(root, kit).status == 0
    monkeypatch.setenv("PATH", "/nowhere")
    for command in (
        ("status", "made"),
        ("diff", "made"),
        ("diff", "--local", "made"),
        ("new", "x", "/nowhere", "main"),
    ):
        done = kit(*command)
        assert done.status == 1 and "git was not found on PATH" in done.err, (command, done)


@pytest.mark.parametrize("version", ["2.27.0", "2.28.1"])
def test_a_git_that_is_too_old(
    root: Root, kit: Kit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    real = shutil.which("git")
    old = 'echo "error: unknown option \\`no-write-fetch-head\'" >&2; exit 129'
    fake_git(tmp_path / "bin", "--no-write-fetch-head", old)
    script = (tmp_path / "bin/git").read_text()
    said = f'[ "$word" = version ] && echo "git version {version}" && exit 0\n'
    write(tmp_path / "bin", {"git*": script.replace("for word; do ", f"for word; do {said}")})
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    assert real and kit_git.version() == tuple(map(int, version.split(".")))
    done = prepare(root, kit)
    assert done.status == 1 and f"  git {version} is too old: install git 2.29 or newer\n" in done.err, done
    assert "MISSING  git: " in kit("doctor").out
