"""What `kit prepare` makes: commits, the lock, what is checked out; and where a workspace is found."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import support
from support import GUARDED, MADE, PRINTED, TRAIN, Kit, Root, git, prepare, write

from kit import __version__, lock, patchfile, recipes, series, workspace
from kit.errors import KitError


def test_one_commit_a_fix_then_the_overlay(root: Root, made: Path) -> None:
    up = made / "up"
    assert git("log", "--reverse", "--format=%s", at=up).splitlines() == [
        "upstream",
        "weights-pop: guard weights.pop() against an empty list",
        "progress-print: print a line after the step-limit break",
        "overlay: 2 files for the device",
    ]
    assert git("rev-list", "--max-parents=0", "HEAD", at=up) == root.pin
    assert git("branch", "--show-current", at=up) == "kit"
    assert git("status", "--porcelain", "--ignored", at=up) == ""
    body = git("log", "-1", "--format=%b", "HEAD~2", at=up)
    assert "IndexError: pop from empty list" in body and body.endswith("Kit-Fix: weights-pop")
    assert "See: https://github.com/huggingface/diffusers/issues/2606" in body
    who = git("log", "-3", "--format=%an <%ae> %ad|%cn <%ce> %cd", "--date=raw", at=up).splitlines()
    date = git("log", "-1", "--format=%ct +0000", root.pin, at=up)
    assert who == [f"kit <kit@localhost> {date}|kit <kit@localhost> {date}"] * 3
    assert git("log", "-1", "--format=%b", at=up) == "- examples/helper.py\n- examples/run.sh"
    assert (up / "examples/train.py").read_text() == GUARDED + PRINTED.removeprefix(TRAIN)
    assert (up / "examples/run.sh").read_text() == (
        '#!/usr/bin/env bash\n# Tiny on CPU\npython3 train.py \\\n  --max_train_steps="${steps:-1}"\n'
    )
    git("fsck", "--strict", at=up)
    git("revert", "--no-edit", "HEAD~2", at=up)
    assert (up / "examples/train.py").read_text() == PRINTED


def test_the_lock(root: Root, made: Path) -> None:
    up = made / "up"
    body = json.loads((made / "kit.lock").read_text())
    files = {path: (up / path).read_bytes() for path in ("examples/helper.py", "examples/run.sh", "examples/train.py")}
    ids = {path: patchfile.blob_id(content) for path, content in files.items()}
    after = patchfile.blob_id(GUARDED.encode())
    path = root.place / "recipes/tiny.toml"
    assert len(body.pop("sha256")) == 64
    assert body == {
        "recipe": str(path),
        "recipe_sha256": subprocess.check_output(["sha256sum", path], text=True).split()[0],
        "device": "cpu",
        "cluster": {"machines": 1, "machine_rank": 0, "main_ip": "localhost", "main_port": 6000, "processes": 1},
        "without": [],
        "upstreams": {
            "up": {
                "url": str(root.upstream),
                "pin": root.pin,
                "commit": git("rev-parse", "HEAD", at=up),
                "tree": git("rev-parse", "HEAD^{tree}", at=up),
                "fixes": [
                    {
                        "id": "weights-pop",
                        "outcome": "applied",
                        "commit": git("rev-parse", "HEAD~2", at=up),
                        "files": {"examples/train.py": after},
                    },
                    {
                        "id": "progress-print",
                        "outcome": "applied",
                        "commit": git("rev-parse", "HEAD~1", at=up),
                        "files": {"examples/train.py": ids["examples/train.py"]},
                    },
                ],
                "overlay_commit": git("rev-parse", "HEAD", at=up),
                "files": {
                    "examples/train.py": f"100644 {ids['examples/train.py']}",
                    "examples/helper.py": f"100644 {ids['examples/helper.py']}",
                    "examples/run.sh": f"100755 {ids['examples/run.sh']}",
                },
            }
        },
        "kit": __version__,
        "options": {},
        "extras": [],
    }


def test_run_bits(root: Root, kit: Kit) -> None:
    write(root.upstream, {"examples/train.py*": TRAIN, "examples/tool.sh*": "#!/bin/sh\n", "examples/data": "x"})
    root.recipe(upstream={"pin": support.make_upstream(root.upstream, {"more": "x"})})
    assert prepare(root, kit).status == 0
    runs = [path.name for path in sorted((MADE / "up/examples").iterdir()) if os.access(path, os.X_OK)]
    assert runs == ["run.sh", "tool.sh", "train.py"] and kit("verify", "made").status == 0


def test_sparse_and_all(root: Root, kit: Kit) -> None:
    write(root.upstream, {"a/b/in": "x", "a/beside": "x", "a/other/out": "x", "z/out": "x"})
    pin = support.make_upstream(root.upstream, {"top": "x"})
    root.recipe(upstream={"pin": pin, "sparse": ["examples", "a/b"]})
    assert prepare(root, kit).status == 0
    up = MADE / "up"
    found = {path.relative_to(up).as_posix() for path in up.rglob("*") if path.is_file() and ".git" not in path.parts}
    examples = {"examples/helper.py", "examples/run.sh", "examples/train.py"}
    assert found == {"README.md", "top", "a/beside", "a/b/in", *examples}
    assert git("status", "--porcelain", at=up) == "" and git("sparse-checkout", "list", at=up) == "a/b\nexamples"
    root.recipe(upstream={"pin": pin})
    assert prepare(root, kit).status == 0
    assert (up / "z/out").exists()


def test_an_overlay_outside_the_sparse_folders(root: Root, kit: Kit) -> None:
    write(root.upstream, {"z/out": "x"})
    pin = support.make_upstream(root.upstream, {"top": "x"})
    root.overlay({"one.py": "ONE = 1\n", "deeper/two.py": "TWO = 2\n"})
    given = {"upstream": {"pin": pin, "sparse": ["examples"]}}
    root.recipe(**given, overlay=[{"source": "tiny", "into": "new/folder"}])
    assert prepare(root, kit).status == 0
    assert (MADE / "up/new/folder/one.py").read_text() == "ONE = 1\n"
    assert (MADE / "up/new/folder/deeper/two.py").is_file() and not (MADE / "up/z").exists()
    assert kit("verify", "made").status == 0
    recipe = root.recipe(**given, overlay=[{"source": "tiny", "into": "z"}])
    refused = prepare(root, kit)
    assert refused.status == 1 and refused.err.splitlines() == [
        "kit: error: up: the overlay goes into z, where upstream's z/out is not checked out",
        f'  add "z" to `sparse` in {recipe}',
    ]


def test_no_fix_and_no_overlay(root: Root, kit: Kit) -> None:
    shutil.rmtree(root.patches())
    root.recipe(fix=None, overlay=None)
    assert prepare(root, kit).status == 0
    assert git("rev-parse", "HEAD", at=MADE / "up") == root.pin
    assert kit("verify", "made").status == 0


def test_two_upstreams(root: Root, kit: Kit, tmp_path: Path) -> None:
    other = tmp_path / "other"
    pin = support.make_upstream(other, {"tool.py": "x = 1\n"})
    upstreams = [
        {"name": "up", "url": str(root.upstream), "pin": root.pin},
        {"name": "two", "url": str(other), "pin": pin},
    ]
    fix = [{"id": "weights-pop", "files": ["examples/train.py"], "upstream": "up"}]
    (root.patches() / "02-progress-print.patch").unlink()
    overlay = [{"source": "tiny", "into": "x", "upstream": "two"}]
    path = root.recipe(upstream=None, fix=fix, overlay=overlay)
    root.table["upstream"] = upstreams
    path.write_text(support.toml(root.table))
    assert prepare(root, kit).status == 0
    assert sorted(item.name for item in MADE.iterdir()) == ["kit.lock", "two", "up"]
    assert (MADE / "two/x/helper.py").exists() and git("rev-parse", "HEAD~1", at=MADE / "two") == pin


# How many machines and processes.


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (1, 0, "localhost", 6000, 8)),
        (["--machines", "2", "--main-ip", "192.0.2.1"], (2, 0, "192.0.2.1", 6000, 16)),
        (
            ["--machines", "2", "--machine-rank", "1", "--main-ip", "h", "--main-port", "7", "--processes", "4"],
            (2, 1, "h", 7, 4),
        ),
        (["--processes", "3"], (1, 0, "localhost", 6000, 3)),
    ],
)
def test_cluster(root: Root, kit: Kit, options: list[str], expected: tuple[object, ...]) -> None:
    assert prepare(root, kit, *options, device="npu").status == 0
    assert tuple(lock.read(MADE).cluster.values()) == expected
    assert f"${{steps:-{expected[-1]}}}" in (MADE / "up/examples/run.sh").read_text()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--machine-rank", "1"], 1, "--machine-rank 1 with --machines 1\n  ranks go from 0 to 0"),
        (
            ["--machines", "2", "--machine-rank", "2"],
            1,
            "--machine-rank 2 with --machines 2\n  ranks go from 0 to 1",
        ),
        (
            ["--machines", "3", "--processes", "8", "--main-ip", "h"],
            1,
            "--processes 8 with --machines 3\n  --processes is the total over all machines, the same number on each",
        ),
        (
            ["--machines", "2"],
            1,
            "2 machines cannot meet at localhost\n  give the address of the machine with rank 0: --main-ip IP",
        ),
        (["--machines", "0"], 2, "Invalid value for '--machines': 0 is not in the range x>=1.\n  kit prepare --help"),
        (["--processes", "0"], 2, "Invalid value for '--processes': 0 is not in the range x>=1."),
        (["--machine-rank", "-1"], 2, "Invalid value for '--machine-rank': -1 is not in the range x>=0."),
        (["--main-port", "70000"], 2, "Invalid value for '--main-port': 70000 is not in the range 1<=x<=65535."),
        (["--main-port", "x"], 2, "Invalid value for '--main-port': 'x' is not a valid"),
    ],
)
def test_cluster_refused(root: Root, kit: Kit, options: list[str], status: int, message: str) -> None:
    done = prepare(root, kit, *options, device="npu")
    assert done.status == status and done.err.startswith(f"kit: error: {message}")
    assert list(Path().iterdir()) == []


# Finding one.


def test_find(root: Root, made: Path, kit: Kit, tmp_path: Path) -> None:
    here = made.absolute()
    assert workspace.find(made / "up/examples") == workspace.find(made) == workspace.find(Path()) == [here]
    shutil.copytree(made, "deeper/other", symlinks=True)
    assert workspace.find(Path()) == [here, Path("deeper/other").absolute()]
    Path("empty").mkdir()
    for place, said in (("empty", "there is no workspace at or below"), ("nowhere", "is not a folder")):
        with pytest.raises(KitError, match=said):
            workspace.find(Path(place))


def test_diff(root: Root, made: Path, kit: Kit) -> None:
    done = kit("diff", "made")
    assert done.out.count("diff --git") == 3 and "+            if weights:" in done.out
    assert kit("diff", "made", "--stat").out.endswith("3 files changed, 8 insertions(+), 1 deletion(-)\n")
    assert kit("diff", "made", "--local").out == ""
    write(made / "up", {"examples/train.py": "mine\n", "examples/new.py": "new\n"})
    local = kit("diff", "--local", "made")
    assert local.out.count("diff --git") == 2 and "+mine" in local.out and "+new" in local.out
    assert git("status", "--porcelain", at=made / "up") == "M examples/train.py\n?? examples/new.py"
    shutil.rmtree(made)
    prepare(root, kit)
    subprocess.run(["git", "apply", "-"], input=local.out, text=True, check=True, cwd=made / "up")
    assert (made / "up/examples/new.py").read_text() == "new\n"


def test_series_is_pure(root: Root) -> None:
    from kit import devices

    found = recipes.parse(root.place / "recipes/tiny.toml")
    files = {found.fix[0].files[0]: TRAIN.encode()}
    steps, after = series.apply(found, "up", devices.load("cpu"), files, series.load_patches(found, "up"))
    assert files == {found.fix[0].files[0]: TRAIN.encode()} and [step.number for step in steps] == [1, 2]
    again, same = series.apply(found, "up", devices.load("cpu"), after, None)
    assert same == after and {str(step.outcome) for step in again} == {"satisfied"}
