"""The cache of upstream objects: exactly the pin, fetched once, whole or not at all."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import support
from support import TRAIN, Kit, Root, git, kit_argv, write

from kit import git as kit_git
from kit import recipes, store
from kit.cache import cache_dir
from kit.errors import KitError
from kit.paths import TreePath
from kit.recipe import Upstream


@pytest.fixture
def upstream(tmp_path: Path) -> Upstream:
    """An upstream with a folder that is checked out and one that is not."""
    place = tmp_path / "up stream; #1"  # what would need quoting in a git configuration
    files: dict[str, str | bytes] = {
        "examples/train.py": TRAIN,
        "other/big.bin": b"\0" * 1000,
        "README.md": "an upstream\n",
        "src/a/b.py": "\n",
    }
    return Upstream("up", str(place), support.make_upstream(place, files), sparse=(TreePath("examples"),))


def has(entry: store.Entry, id: str) -> bool:
    """Whether an object lies in the entry itself (asking git might fetch it)."""
    environment = {**os.environ, "GIT_ALLOW_PROTOCOL": "none"}
    argv = ["git", "-C", str(entry.repository), "cat-file", "-e", id]
    return subprocess.run(argv, env=environment, capture_output=True).returncode == 0


def refusal(upstream: Upstream, **options: bool) -> str:
    with pytest.raises(KitError) as refused:
        store.ensure(upstream, Path(), **options)
    left = [path.name for path in (cache_dir() / "upstreams").glob("*") if not path.name.endswith(".lock")]
    assert left == []
    return str(refused.value).replace(upstream.url, "URL")


def test_exactly_the_pin_and_the_sparse_folders(upstream: Upstream) -> None:
    support.make_upstream(Path(upstream.url), {"examples/train.py": "later = True\n"})
    entry = store.ensure(upstream, Path())
    tree = entry.tree
    assert list(tree) == ["README.md", "examples/train.py", "other/big.bin", "src/a/b.py"]
    assert git("rev-parse", "HEAD", at=entry.repository) == upstream.pin
    assert git("rev-list", "--count", "HEAD", at=entry.repository) == "1"
    here = [path for path, (_, id) in tree.items() if has(entry, id)]
    assert here == ["README.md", "examples/train.py"]
    assert entry.blobs([tree["examples/train.py"][1]]) == {tree["examples/train.py"][1]: TRAIN.encode()}
    assert entry.fetched > 0 and store.ensure(upstream, Path()).fetched == 0


def test_pin_absent(upstream: Upstream) -> None:
    pin = "0123456789012345678901234567890123456789"
    assert refusal(dataclasses.replace(upstream, pin=pin)) == (
        f"URL does not have the commit {pin}\n"
        "  check the pin in the recipe, or that the commit was not removed upstream"
    )


@pytest.mark.parametrize("what", ["tag", "tree", "blob"])
def test_pin_that_is_no_commit(upstream: Upstream, what: str) -> None:
    place = Path(upstream.url)
    git("tag", "--annotate", "--message", "one", "v1", at=place)
    pin = git("rev-parse", {"tag": "v1", "tree": "HEAD^{tree}", "blob": "HEAD:README.md"}[what], at=place)
    said = refusal(dataclasses.replace(upstream, pin=pin))
    assert said == f"URL: what was fetched is not the commit {pin}\n  check the pin in the recipe"


def test_no_such_place(upstream: Upstream, tmp_path: Path) -> None:
    gone = dataclasses.replace(upstream, url=str(tmp_path / "gone"))
    assert re.fullmatch(
        r"URL cannot be reached: .*\n  check the network, or tell git where a mirror is: "
        r"git config --global url\.<mirror>\.insteadOf URL",
        refusal(gone),
    )


def test_alternates_in_order(upstream: Upstream, tmp_path: Path) -> None:
    other = tmp_path / "other"
    support.make_upstream(other)
    gone = str(tmp_path / "gone")
    entry = store.ensure(dataclasses.replace(upstream, url=gone, alternates=(str(other), upstream.url)), Path())
    assert git("rev-parse", "HEAD", at=entry.repository) == upstream.pin
    assert git("config", "remote.origin.url", at=entry.repository) == upstream.url


def test_all_alternates_fail(upstream: Upstream, tmp_path: Path) -> None:
    support.make_upstream(tmp_path / "other", {"a": "b"})
    said = refusal(dataclasses.replace(upstream, url=str(tmp_path / "gone"), alternates=(str(tmp_path / "other"),)))
    assert "URL cannot be reached" in said
    assert f"{tmp_path / 'other'} does not have the commit {upstream.pin}" in said


def test_the_users_instead_of(upstream: Upstream) -> None:
    git("config", "--global", f"url.{upstream.url}.insteadOf", "https://example.invalid/up", at=Path())
    entry = store.ensure(dataclasses.replace(upstream, url="https://example.invalid/up"), Path())
    assert git("rev-parse", "HEAD", at=entry.repository) == upstream.pin


def test_instead_of_cannot_run_commands(upstream: Upstream, tmp_path: Path) -> None:
    git("config", "--global", f"url.ext::touch {tmp_path}/owned .insteadOf", "https://example.invalid/", at=Path())
    assert "transport 'ext' not allowed" in refusal(dataclasses.replace(upstream, url="https://example.invalid/up"))
    assert not (tmp_path / "owned").exists()


def test_offline(upstream: Upstream) -> None:
    assert refusal(upstream, offline=True) == (
        f"up {upstream.pin[:12]} is not in the cache ({cache_dir() / 'upstreams'})\n"
        "  run the same command once without --offline"
    )
    store.ensure(upstream, Path())
    shutil.rmtree(upstream.url)
    assert store.ensure(upstream, Path(), offline=True).tree


@pytest.mark.parametrize("change", ["pin", "sparse", "url"])
def test_entries_do_not_mix(upstream: Upstream, change: str) -> None:
    entry = store.ensure(upstream, Path())
    values = {"pin": "0" * 40, "sparse": ("examples", "other"), "url": f"{upstream.url}/"}
    changed = dataclasses.replace(upstream, **{change: values[change]})  # type: ignore[arg-type]
    assert store.entry_path(changed) != entry.repository


def test_submodule(upstream: Upstream) -> None:
    place = Path(upstream.url)
    git("update-index", "--add", "--cacheinfo", f"160000,{upstream.pin},examples/sub", at=place)
    git("commit", "--quiet", "--message", "submodule", at=place)
    pin = git("rev-parse", "HEAD", at=place)
    assert refusal(dataclasses.replace(upstream, pin=pin)) == (
        "up: examples/sub is a submodule\n"
        "  kit does not fetch submodules; leave the folder out of the recipe's sparse list"
    )
    assert store.ensure(dataclasses.replace(upstream, pin=pin, sparse=(TreePath("src"),)), Path()).tree


def test_upstreams_hooks_and_templates_do_not_run(upstream: Upstream, tmp_path: Path) -> None:
    hook = f"#!/bin/sh\ntouch {tmp_path}/ran\n"
    hooks = {f"hooks/{name}*": hook for name in ("reference-transaction", "post-checkout", "post-index-change")}
    template = write(tmp_path / "template", hooks)
    git("config", "--global", "init.templateDir", str(template), at=Path())
    git("config", "--global", "core.hooksPath", str(template / "hooks"), at=Path())
    store.ensure(upstream, Path())
    assert not (tmp_path / "ran").exists()
    git("init", "--quiet", str(tmp_path / "control"), at=Path())
    support.make_upstream(tmp_path / "control")
    assert (tmp_path / "ran").exists()  # the trap works: the user's own git falls into it


SLOW = (
    '#!/bin/sh\necho fetched >> {0}/fetches\n: > {0}/started\nwhile [ ! -e {0}/go ]; do sleep 0.02; done\nexec "$@"\n'
)


@pytest.fixture
def slow(root: Root, tmp_path: Path) -> Path:
    """The upstream waits, in every fetch, for a file `go`; it notes each fetch in `fetches`."""
    place = tmp_path / "slow"
    hook = write(place, {"hook*": SLOW.format(place)}) / "hook"
    git("config", "--global", "uploadpack.packObjectsHook", str(hook), at=Path())
    return place


# Run first in the second kit: it makes a file when it comes to a lock.
ANNOUNCE = """
import filelock, pathlib
enter = filelock.FileLock.__enter__
filelock.FileLock.__enter__ = lambda lock: (pathlib.Path('{0}').touch(), enter(lock))[1]
"""


def begin(root: Root, place: str, before: str = "") -> subprocess.Popen[str]:
    argv = kit_argv("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", place, before=before)
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(path: Path) -> None:
    for _ in range(1000):
        if path.exists():
            return
        signal.sigtimedwait([], 0.01)
    raise AssertionError(f"{path} never came")


def fetches(slow: Path) -> int:
    return (slow / "fetches").read_text().count("fetched")


def empty_cache() -> None:
    shutil.rmtree(cache_dir(), ignore_errors=True)


def test_two_at_once_share_one_fetch(root: Root, slow: Path) -> None:
    (slow / "go").touch()
    empty_cache()
    alone = begin(root, "alone")
    assert alone.communicate()[0] and alone.returncode == 0
    once = fetches(slow)

    for path in ("go", "started", "fetches"):
        (slow / path).unlink()
    empty_cache()
    first = begin(root, "first")
    wait_for(slow / "started")
    second = begin(root, "second", ANNOUNCE.format(slow / "second"))
    wait_for(slow / "second")
    (slow / "go").touch()
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, ""), out
    assert fetches(slow) == once
    assert git("rev-parse", "HEAD", at=Path("first/up")) == git("rev-parse", "HEAD", at=Path("second/up"))


@pytest.mark.parametrize("whole_group", [True, False], ids=["kit-and-git", "kit-alone"])
def test_killed_in_mid_fetch(root: Root, slow: Path, kit: Kit, whole_group: bool) -> None:
    empty_cache()
    killed = begin(root, "made")
    wait_for(slow / "started")
    (os.killpg if whole_group else os.kill)(killed.pid, signal.SIGKILL)
    killed.communicate() if whole_group else killed.wait()
    upstreams = cache_dir() / "upstreams"
    assert [path.name for path in upstreams.iterdir() if path.name.endswith(".tmp")]
    assert not Path("made").exists()
    (slow / "go").touch()
    done = kit("prepare", root.place / "recipes/tiny.toml", "--device", "cpu", "made")
    assert (done.status, done.err) == (0, "")
    entry = store.entry_path(recipes.parse(root.place / "recipes/tiny.toml").upstream[0])
    assert sorted(path.name for path in upstreams.iterdir()) == [entry.name, f"{entry.name}.lock"]
    kit_git.run("fsck", "--connectivity-only", at=Path("made/up"))


CARRIED: dict[str, str | bytes] = {"train.py": TRAIN, "tool.sh*": "#!/bin/sh\n", "__pycache__/x.pyc": b"\0"}


def carried(root: Root, pin: str) -> Path:
    write(root.place / "recipes/tiny/upstream", CARRIED)
    fix = [{"id": "weights-pop", "files": ["train.py"]}]
    return root.recipe(upstream={"url": "tiny/upstream", "pin": pin}, fix=fix)


def test_carried_upstream_with_another_pin(root: Root, kit: Kit) -> None:
    done = kit("prepare", carried(root, "0" * 40), "--device", "cpu")
    found = re.fullmatch(
        r"kit: error: (.*): its files make commit ([0-9a-f]{40}), the recipe pins (0{40})\n  pin = \"\2\"\n", done.err
    )
    assert done.status == 1 and found and found[1] == str(root.place / "recipes/tiny/upstream")
    path = carried(root, found[2])
    entry = store.ensure(recipes.parse(path).upstream[0], path.parent, offline=True)
    assert {name: mode for name, (mode, _) in entry.tree.items()} == {"tool.sh": "100755", "train.py": "100644"}
    assert entry.date() == "946684800 +0000"


def test_carried_upstream_missing(root: Root, kit: Kit) -> None:
    done = kit("prepare", root.recipe(upstream={"url": "tiny/upstream"}), "--device", "cpu")
    folder = root.place / "recipes/tiny/upstream"
    assert done.err == f"kit: error: the carried upstream {folder} does not exist\n  check `url` in the recipe\n"


@pytest.mark.parametrize(
    ("path", "sparse", "inside"),
    [
        ("README.md", ["a/b"], True),
        ("a/x", ["a/b"], True),
        ("a/b/x", ["a/b"], True),
        ("a/b/c/x", ["a/b"], True),
        ("a/c/x", ["a/b"], False),
        ("ab/x", ["a"], False),
        ("z/x", [], True),
    ],
)
def test_in_cone(path: str, sparse: list[str], inside: bool) -> None:
    assert store.in_cone(path, sparse) is inside


def test_an_object_that_is_not_there_and_a_folder_that_is_no_repository(tmp_path: Path) -> None:
    bare, none = tmp_path / "bare", tmp_path / "none"
    none.mkdir()
    git("init", "-q", "--bare", str(bare), at=tmp_path)
    with pytest.raises(KitError, match=f"lacks object {'1' * 40}"):
        store.Entry(bare, "0" * 40).blobs(["1" * 40])
    with pytest.raises(KitError, match=r"^the cache is damaged: .*/none") as told:
        store.Entry(none, "0" * 40).blobs(["1" * 40])
    assert told.value.hint == f"remove it, it is fetched again: rm -r {none}"
