"""Overlays: what is rendered, what is copied, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import REPOSITORY, Done, Root, git, write

from kit import overlay
from kit.errors import KitError
from kit.paths import TreePath
from kit.recipe import Overlay

CONTEXT = {"device": {"name": "npu"}, "cluster": {"machines": 2}}
PART = Overlay(TreePath("tiny"), TreePath("examples/x"), "up")


def render(tmp_path: Path, files: dict[str, str | bytes]) -> dict[TreePath, overlay.File]:
    write(tmp_path / "overlays" / "tiny", files)
    return overlay.render((tmp_path,), PART, CONTEXT)


def test_rendered_and_copied(tmp_path: Path) -> None:
    assert render(
        tmp_path,
        {
            "run.sh.j2*": "{% if device.name == 'npu' %}\nnpu ×{{ cluster.machines }}\n{% endif %}\n\n",
            "data.bin*": b"\xff\r\n{{ device.name }}\0",
            "sub/plain.py": "{{ kept }}",
            "sub/__pycache__/plain.pyc": b"\0",
        },
    ) == {
        "examples/x/data.bin": (0o100755, b"\xff\r\n{{ device.name }}\0"),
        "examples/x/run.sh": (0o100755, "npu ×2\n\n".encode()),
        "examples/x/sub/plain.py": (0o100644, b"{{ kept }}"),
    }


def test_templates_share(tmp_path: Path) -> None:
    write(tmp_path / "overlays" / "shared", {"base.j2": "{% block body %}{% endblock %}!\n"})
    made = render(tmp_path, {"a.j2": '{% extends "shared/base.j2" %}{% block body %}hello{% endblock %}'})
    assert made == {"examples/x/a": (0o100644, b"hello!\n")}


@pytest.mark.parametrize(
    ("files", "message", "hint"),
    [
        (
            {"a.sh.j2": "one\n{{ devise.name }}\n"},
            "a.sh.j2:2: 'devise' is undefined",
            "names a template may use: cluster, device",
        ),
        (
            {"a.sh.j2": "\n\n{{ device.nmae }}\n"},
            "a.sh.j2:3: 'dict object' has no attribute 'nmae'",
            "names a template may use: cluster, device",
        ),
        ({"a.j2": "one\n{% if x %}\n"}, "a.j2:2: Unexpected end of template.", "mend the template"),
        ({"a.j2": "{% extends 'nowhere.j2' %}"}, "a.j2:1: 'nowhere.j2' not found", "names a template may use"),
        ({"a.j2": "\n{{ 1 // 0 }}"}, "a.j2:2: integer division or modulo by zero", "names a template may use"),
        ({"a.j2": b"one\n\xff"}, "a.j2:1: 'utf-8' codec can't decode byte 0xff", "names a template may use"),
        ({"a": "1", "a.j2": "2"}, "a.j2: examples/x/a comes from two files of the overlay", "remove one of them"),
        (
            {".git/hooks/post-checkout": "x"},
            "post-checkout: 'examples/x/.git/hooks/post-checkout' is inside .git",
            "use",
        ),
        ({"a\nb": "x"}, "a\nb: 'examples/x/a\\nb' has a backslash or a control character", "use"),
    ],
)
def test_refused(tmp_path: Path, files: dict[str, str | bytes], message: str, hint: str) -> None:
    with pytest.raises(KitError) as refused:
        render(tmp_path, files)
    assert refused.value.message.startswith(f"{tmp_path}/overlays/tiny/") and message in refused.value.message
    assert refused.value.hint.startswith(hint)


def test_line_in_an_included_file(tmp_path: Path) -> None:
    write(tmp_path / "overlays" / "shared", {"part.j2": "\n{{ nothing }}\n"})
    with pytest.raises(KitError) as refused:
        render(tmp_path, {"a.j2": '{% include "shared/part.j2" %}'})
    assert refused.value.message == f"{tmp_path}/overlays/shared/part.j2:2: 'nothing' is undefined"


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a symbolic link": lambda path: path.symlink_to("/etc/passwd"),
    "not a regular file": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_special_files(tmp_path: Path, kind: str) -> None:
    folder = write(tmp_path / "overlays" / "tiny", {"a": "1"})
    SPECIAL[kind](folder / "b")
    with pytest.raises(KitError) as refused:
        overlay.render((tmp_path,), PART, CONTEXT)
    assert str(refused.value) == f"{folder / 'b'}: {kind}\n  a recipe holds regular files only: copy the file itself"


def test_linked_folder(tmp_path: Path) -> None:
    folder = write(tmp_path / "overlays" / "tiny", {"a": "1"})
    (folder / "b").symlink_to("/etc")
    with pytest.raises(KitError, match="b: a symbolic link"):
        overlay.render((tmp_path,), PART, CONTEXT)


# What an overlay meets in the upstream.
Kit = Callable[..., Done]


def prepare(kit: Kit, path: Path) -> Done:
    return kit("prepare", path, "--device", "cpu", "made")


ALREADY = "is already in up\n  rename it, or list it under `replace` of the overlay\n"


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"train.py": "x\n"}, f"examples/train.py {ALREADY}"),
        ({"train.py.j2": "x\n"}, f"examples/train.py {ALREADY}"),
        ({"train.py/inner": "x\n"}, "examples/train.py/inner cannot be beside examples/train.py of up\n"),
        ({"link/inner": "x\n"}, "examples/link/inner cannot be beside examples/link of up\n"),
        ({"folder": "x\n"}, "examples/folder cannot be beside examples/folder/b of up\n"),
    ],
    ids=["file", "rendered", "below-a-file", "through-a-link", "over-a-folder"],
)
def test_collision(root: Root, kit: Kit, files: dict[str, str], said: str) -> None:
    write(root.upstream, {"examples/folder/b": "b\n"})
    (root.upstream / "examples/link").symlink_to("/tmp")
    git("add", "-A", at=root.upstream)
    git("commit", "--quiet", "-m", "more", at=root.upstream)
    root.pin = git("rev-parse", "HEAD", at=root.upstream)
    root.overlay(files)
    path = root.recipe()
    done = prepare(kit, path)
    assert done.status == 1 and done.err.startswith(f"kit: error: {path}:19: overlay tiny: {said}")
    assert not Path("made").exists()


def test_replace(root: Root, kit: Kit) -> None:
    root.overlay({"train.py": "replaced = True\n"})
    path = root.recipe(
        overlay=[{"source": "tiny", "into": "examples", "replace": ["examples/train.py"]}],
        fix=[],
    )
    root.refresh()
    assert prepare(kit, path).status == 0
    assert Path("made/up/examples/train.py").read_text() == "replaced = True\n"


def test_a_replaced_file_that_a_fix_changes(root: Root, kit: Kit) -> None:
    root.overlay({"train.py": "replaced = True\n"})
    path = root.recipe(overlay=[{"source": "tiny", "into": "examples", "replace": ["examples/train.py"]}])
    assert prepare(kit, path).err == (
        f"kit: error: {path}:19: overlay tiny: "
        "examples/train.py is changed by fix progress-print, which it would undo\n"
        "  take it out of `replace`, or the file out of the fix\n"
    )


@pytest.mark.parametrize(
    ("one", "two", "said"),
    [
        ("helper.py", "helper.py", "examples/helper.py is already in overlay tiny"),
        ("a", "a/b", "examples/a/b cannot be beside examples/a of overlay tiny"),
        ("a/b", "a", "examples/a cannot be beside examples/a/b of overlay tiny"),
    ],
)
def test_two_overlays(root: Root, kit: Kit, one: str, two: str, said: str) -> None:
    root.overlay({one: "x\n"})
    root.overlay({two: "x\n"}, "second")
    parts = [{"source": "tiny", "into": "examples"}, {"source": "second", "into": "examples"}]
    path = root.recipe(overlay=parts)
    done = prepare(kit, path)
    assert done.status == 1 and f"{path}:23: overlay second: {said}\n  give one of them another path\n" in done.err
    assert not Path("made").exists()


def test_the_shipped_overlays_have_no_stray_files() -> None:
    folder = REPOSITORY / "overlays"
    assert [path for path in folder.rglob("*") if path.is_symlink() or path.suffix in (".orig", ".rej", ".swp")] == []
