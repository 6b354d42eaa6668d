"""`kit drift`: a series along its upstream's history."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from support import GUARDED, PRINTED, TRAIN, Done, Root, git, make_upstream

from kit import drift, fixes, history, recipe, recipes
from kit.errors import KitError

Kit = Callable[..., Done]

NOT_BOUND = TRAIN.replace("main(args, accelerator)", "main(args)").replace("    accelerator.register", "    register")
GONE = TRAIN.replace("            weights.pop()\n", "            print(weights)\n")
BROKEN = TRAIN.replace("def main(", "def main((")


def commit(root: Root, text: str, name: str = "examples/train.py") -> str:
    return make_upstream(root.upstream, {name: text})


@pytest.fixture
def tiny(root: Root) -> str:
    return str(root.place / "recipes/tiny.toml")


def test_nothing_to_do(root: Root, kit: Kit, tiny: str) -> None:
    done = kit("drift", tiny)
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines()[1:] == [
        "  examples/train.py: 1 version",
        "    weights-pop: applied throughout",
        "    progress-print: applied throughout",
        "  the series holds as it is",
    ]
    commit(root, "# more\n" + TRAIN)
    assert kit("drift", tiny).out.splitlines()[1] == "  examples/train.py: 2 versions"
    assert kit("drift", tiny).status == 0


def test_upstream_took_a_fix(root: Root, kit: Kit, tiny: str) -> None:
    commit(root, "# nothing of note\n", "README.md")
    took = commit(root, GUARDED)
    done = kit("drift", tiny)
    assert done.status == 4
    assert done.out.splitlines()[1:] == [
        "  examples/train.py: 2 versions",
        "    weights-pop: applied at the pin, satisfied now  <- kit rebase can take it",
        f"      2023-11-14  {root.pin[:12]}  1x  pin  applied",
        f"      2023-11-14  {took[:12]}  1x       satisfied",
        "    progress-print: applied throughout",
        f"  next: kit rebase {tiny} --to {took}",
    ]


def test_a_general_fix_has_as_many_places_as_there_are(root: Root, kit: Kit, tiny: str) -> None:
    commit(root, TRAIN.replace("            weights.pop()\n", "            weights.pop()\n            weights.pop()\n"))
    done = kit("drift", tiny)
    assert done.status == 0 and "    weights-pop: applied throughout\n" in done.out


def test_a_fix_that_is_not_general_has_its_count_everywhere(
    root: Root, kit: Kit, tiny: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixes.load("weights-pop"), "GENERAL", False)
    commit(root, TRAIN + TRAIN.partition("def main")[2].join(["def other", ""]))
    done = kit("drift", tiny)
    assert done.status == 5 and "expected 1 place to fix, found 2" in done.out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (NOT_BOUND, "(line 21: `accelerator` is not bound there"),
        (BROKEN, "not valid Python"),
        (GONE, "gone"),
    ],
    ids=["not bound", "not Python", "gone"],
)
def test_someone_must_look(root: Root, kit: Kit, tiny: str, text: str, said: str) -> None:
    broke = commit(root, text)
    done = kit("drift", tiny)
    assert done.status == 5 and said in done.out
    assert (
        f"needs a person: {'gone' if said == 'gone' else 'conflict'} in examples/train.py since {broke[:12]}"
        in done.out
    )
    assert kit("drift", tiny, "--to", root.pin).status == 0


def test_the_file_goes_and_comes_back(root: Root, kit: Kit, tiny: str) -> None:
    (root.upstream / "examples/train.py").unlink()
    commit(root, "x\n", "README.md")
    done = kit("drift", tiny)
    assert done.status == 5 and "absent in examples/train.py" in done.out
    commit(root, TRAIN)
    (fix, _) = kit("drift", tiny, "--json").json[0]["fixes"]
    assert [(each["outcome"], each["pinned"]) for each in fix["segments"]] == [
        ("applied", True),
        ("absent", False),
        ("applied", False),
    ]
    assert fix["verdict"] == "" and kit("drift", tiny).status == 0


def histories(root: Root, kit: Kit) -> Mapping[str, list[tuple[str, int, bool]]]:
    (report,) = kit("drift", root.place / "recipes/tiny.toml", "--history", "--json").json
    assert report["pin"] == root.table["upstream"][0]["pin"]
    return {
        fix["fix"]: [(each["outcome"], each["versions"], each["pinned"]) for each in fix["segments"]]
        for fix in report["fixes"]
    }


def test_back_to_the_beginning(root: Root, kit: Kit) -> None:
    """The pin's version is one of the chain; a version that upstream went back to is worked out once."""
    commit(root, PRINTED)
    pin = commit(root, TRAIN)
    commit(root, "# a\n" + TRAIN)
    root.recipe(upstream={"pin": pin})
    assert histories(root, kit) == {
        "weights-pop": [("applied", 4, True)],
        "progress-print": [("applied", 1, False), ("satisfied", 1, False), ("applied", 2, True)],
    }
    pin = commit(root, "not code\n", "README.md")
    root.recipe(upstream={"pin": pin})
    assert histories(root, kit)["weights-pop"] == [("applied", 4, True)]


def test_a_pin_beside_the_branch(root: Root, kit: Kit, tiny: str) -> None:
    """A pin that upstream's newest version does not descend from: its branch was merged, or left."""
    git("checkout", "-q", "-b", "side", at=root.upstream)
    pin = commit(root, PRINTED)
    git("checkout", "-q", "main", at=root.upstream)
    commit(root, GUARDED)
    root.recipe(upstream={"pin": pin})
    (report,) = kit("drift", tiny, "--to", "main", "--json").json
    assert [[each["outcome"] for each in fix["segments"]] for fix in report["fixes"]] == [
        ["applied", "satisfied"],
        ["satisfied", "applied"],
    ]


def test_work_is_done_once(root: Root, kit: Kit, tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        commit(root, f"# {number % 3}\n{TRAIN}")
    first = kit("drift", tiny)

    def never(*arguments: object) -> None:
        raise AssertionError("it was known")

    monkeypatch.setattr(drift, "outcomes", never)
    assert kit("drift", tiny) == first and first.status == 0
    assert kit("drift", tiny, "--offline") == first
    monkeypatch.setattr(drift, "_code", lambda: "other fixes")
    assert kit("drift", tiny).status == 3  # what is looked for would be seen


def test_a_fix_that_changes_is_tried_again(root: Root, tiny: str) -> None:
    found = recipes.load(tiny)
    up, device = found.upstream[0], found.device("cpu")
    arguments = (found, up, device, "examples/train.py", "0" * 40)
    key = drift._key(*arguments)
    assert drift._key(*arguments) == key and len(key) == 64
    root.recipe(fix=[{"id": "weights-pop", "files": ["examples/train.py"], "count": 2}])
    assert drift._key(recipes.load(tiny), *arguments[1:]) != key


def test_a_hand_written_patch(root: Root, kit: Kit, tiny: str) -> None:
    """It is tried as it is: exactly, or not at all."""
    patch = (root.patches() / "01-weights-pop.patch").read_bytes()
    step = {"id": "by-hand", "use": "patch", "why": "to see", "files": ["examples/train.py"]}
    root.recipe(fix=[step, {"id": "progress-print", "files": ["examples/train.py"]}])
    for path in root.patches().iterdir():
        path.unlink()
    (root.patches() / "01-by-hand.patch").write_bytes(patch)
    commit(root, "# more\n" + TRAIN)
    done = kit("drift", tiny)
    assert done.status == 5 and "by-hand: applied at the pin, conflict now" in done.out
    assert "; its place moved +1 lines" in done.out
    assert "progress-print: applied throughout" in done.out


def test_only_what_is_asked_for_is_fetched(root: Root, kit: Kit, tiny: str) -> None:
    commit(root, "large\n" * 1000, "data.txt")
    other = git("rev-parse", "HEAD:data.txt", at=root.upstream)
    commit(root, "# a\n" + TRAIN)
    assert kit("drift", tiny).status == 0
    (repository,) = (Path(os.environ["KIT_CACHE"]) / "history").glob("up-*[!k]")
    objects = git("cat-file", "--batch-all-objects", "--batch-check", at=repository)
    assert git("rev-parse", "HEAD:examples/train.py", at=root.upstream) in objects and other not in objects


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--to", "no-such"),
            "the history up to no-such cannot be had: fatal: couldn't find remote ref no-such\n  check",
        ),
        (("--to", "--upload-pack=x"), "bad name of a commit: '--upload-pack=x'\n  give a branch"),
        (("--to", "a..b"), "bad name of a commit: 'a..b'\n  give a branch"),
        (("--device", "cuda"), "recipe tiny does not support device 'cuda'"),
        (("--offline",), "is not in the cache"),
    ],
)
def test_refused(root: Root, kit: Kit, tiny: str, arguments: tuple[str, ...], said: str) -> None:
    done = kit("drift", tiny, *arguments)
    assert (done.status, done.out) == (1, "") and said in done.err


def test_a_released_package_has_no_history() -> None:
    up = recipe.Upstream("up", "https://files.example/up-1.0.tar.gz", "0" * 40, sha256="0" * 64)
    with pytest.raises(KitError, match=r"^up is a released package: it has no history"):
        history.fetch(up)


def test_a_carried_upstream_has_no_history(kit: Kit) -> None:
    done = kit("drift", "demo")
    assert done == Done(0, "", "demo: demo is carried with the recipe: it has no history\n")
    with pytest.raises(KitError, match="has no history"):
        history.fetch(recipes.load("demo").upstream[0])


def test_the_page(root: Root, kit: Kit, tiny: str) -> None:
    commit(root, GUARDED)
    git("commit", "-q", "--allow-empty", "-m", "<b>", at=root.upstream)
    broke = commit(root, NOT_BOUND)
    assert kit("drift", tiny, "--report", "drift.html").err == "report: drift.html\n"
    page = Path("drift.html").read_text("utf-8")
    assert broke[:12] in page and "`accelerator` is not bound there" in page and "someone must look" in page
    assert page.count('class="bar"') == 2 and 'style="left: 16.67%"' in page and "<b>" not in page
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
