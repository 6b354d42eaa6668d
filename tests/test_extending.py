"""`extends`, `kit recipe copy`, and what is not written to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, TRAIN, Kit, Root, make_upstream, snapshot, toml, write

from kit import beside, lock, recipes, series
from kit.errors import KitError
from kit.extending import merged


def variant(root: Root, name: str = "ours", extends: str = "tiny.toml", **changes: Any) -> Path:
    """A recipe beside `tiny` that extends it."""
    return (
        write(root.place / "recipes", {f"{name}.toml": toml({"name": name, "extends": extends, **changes})})
        / f"{name}.toml"
    )


@pytest.mark.parametrize(
    ("base", "own", "made"),
    [
        ({"title": "A", "summary": "s"}, {"title": "B"}, {"title": "B", "summary": "s"}),
        ({"environment": {"packages": {"a": "1", "b": "2"}}}, {"environment": {"packages": {"b": "3"}}},
         {"environment": {"packages": {"a": "1", "b": "3"}}}),
        ({"fix": [{"id": "a", "count": 2}, {"id": "b"}]}, {"fix": [{"id": "a", "why": "w"}, {"id": "c"}]},
         {"fix": [{"id": "a", "count": 2, "why": "w"}, {"id": "b"}, {"id": "c"}]}),
        ({"figure": [{"task": "t"}, {"task": "u"}]}, {"figure": [{"task": "v"}]}, {"figure": [{"task": "v"}]}),
        ({"smoke": {"step": [{"name": "a", "run": ["x"]}]}}, {"smoke": {"step": [{"name": "a", "limit": 3}]}},
         {"smoke": {"step": [{"name": "a", "run": ["x"], "limit": 3}]}}),
        ({"devices": ["npu"]}, {"devices": ["cpu"]}, {"devices": ["cpu"]}),
    ],
)  # fmt: skip
def test_merged(base: dict[str, Any], own: dict[str, Any], made: dict[str, Any]) -> None:
    assert merged(base, own)[0] == made


def test_a_variant_is_a_few_lines(root: Root, kit: Kit) -> None:
    """It prepares what the other does, from the other's patches, but for what it says anew."""
    tiny, ours = root.recipe(), variant(root, title="Ours")
    assert kit("prepare", tiny, "--device", "cpu", "one").status == 0
    done = kit("prepare", ours, "--device", "cpu", "two")
    assert done.status == 0 and done.out.count("patch, exactly") == 2
    one, two = (lock.read(Path(name)).upstreams["up"].fixes for name in ("one", "two"))
    assert one == two
    assert "# Ours on CPU" in Path("two/up/examples/run.sh").read_text()
    assert kit("verify", "two").status == 0
    assert kit("refresh", "--check", ours).status == 0
    assert not (root.place / "patches/ours").exists()


def test_a_variant_leaves_out_and_adds(root: Root, kit: Kit) -> None:
    fix = [{"id": "stop-at-max-steps", "files": ["examples/train.py"]}]
    ours = variant(root, without=["weights-pop"], fix=fix)
    assert [step.id for step in recipes.load(str(ours)).fix] == ["progress-print", "stop-at-max-steps"]
    assert kit("refresh", ours).status == 0
    written = [path.name for path in (root.place / "patches/ours/up").iterdir()]
    assert "02-stop-at-max-steps.patch" in written
    assert kit("prepare", ours, "--device", "cpu", "made").status == 0
    assert kit("verify", "made").status == 0


def test_what_the_base_changes_reaches_the_variant(root: Root, kit: Kit) -> None:
    ours = variant(root)
    before = recipes.load(str(ours)).sha256
    root.recipe(title="Other")
    found = recipes.load(str(ours))
    assert found.title == "Other" and found.sha256 != before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"extends": "nowhere"}, "ours.toml:2: unknown recipe 'nowhere'"),
        ({"extends": "ours.toml"}, "ours.toml:2: extends 'ours.toml' leads back here"),
        ({"extends": 3}, "ours.toml:2: extends must be a string"),
        ({"without": "weights-pop"}, "ours.toml:3: without must be a list"),
        ({"without": True}, "ours.toml:3: without must be a list"),
        ({"without": ["weights-pup"]}, "which is no fix of tiny.toml; did you mean 'weights-pop'"),
        ({"fix": [{"id": "none-such", "files": ["a.py"]}]}, "ours.toml:4: there is no fix 'none-such'"),
        ({"fix": [{"id": "weights-pop", "count": 0}]}, "ours.toml:6: fix weights-pop: count must be at least 1"),
        ({"devices": ["tpu", "nope"]}, "ours.toml:3: unknown device 'nope'"),
        ({"figures": []}, "ours.toml:3: unknown key 'figures'"),
    ],
)
def test_refused_with_its_own_line(root: Root, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(KitError) as refused:
        recipes.load(str(variant(root, **changes)))
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('extends = "tiny.toml"\n', "ours.toml:1: missing key 'name'"),
        ('name = "ours"\nextends = "tiny.toml"\n\n[upstreams.x]\na = 1\n', "ours.toml:4: unknown key 'upstreams'"),
    ],
)
def test_a_line_of_its_own_is_named(root: Root, text: str, said: str) -> None:
    path = variant(root)
    path.write_text(text)
    with pytest.raises(KitError) as refused:
        recipes.load(str(path))
    assert said in str(refused.value)


def test_a_pin_of_its_own(root: Root, kit: Kit) -> None:
    """Two branches of one port: the same series elsewhere."""
    pin = make_upstream(root.upstream, {"examples/train.py": "# a branch\n" + TRAIN})
    ours = variant(root, upstream=[{"name": "up", "pin": pin}])
    assert kit("refresh", ours).status == 0
    assert kit("prepare", ours, "--device", "cpu", "made").status == 0
    assert Path("made/up/examples/train.py").read_text().startswith("# a branch\n")
    done = kit("rebase", ours, "--to", root.pin)
    assert done.status == 1 and "its series is that of" in done.err and f"kit rebase {root.place}" in done.err


def test_a_patch_by_hand_is_taken_over(root: Root, kit: Kit) -> None:
    """Where codemods make all patches anew, too: of the base's only those go in that no codemod makes."""
    body = (root.patches() / "01-weights-pop.patch").read_bytes()
    by_hand = {"id": "by-hand", "use": "patch", "files": ["examples/train.py"], "why": "No codemod can say it."}
    root.recipe(fix=[by_hand, {"id": "progress-print", "files": ["examples/train.py"]}])
    (root.patches() / "01-weights-pop.patch").unlink()
    write(root.patches(), {"01-by-hand.patch": body})
    assert kit("refresh", root.place / "recipes/tiny.toml").status == 0
    ours = variant(root)
    assert series.hand_written(recipes.load(str(ours)), "up") == {"01-by-hand.patch": body}
    assert series.hand_written(recipes.load(str(ours)), "another") == {}
    assert kit("prepare", ours, "--device", "cpu", "made").status == 0 and kit("verify", "made").status == 0


def test_copied_whole(kit: Kit, tmp_path: Path) -> None:
    """A copy has all that makes the recipe: it renders the same without kit's overlays."""
    done = kit("recipe", "copy", "hidream", "mine")
    assert done.status == 0 and done.out.endswith("next:\n  kit show mine/recipes/hidream.toml\n"
        "  kit prepare mine/recipes/hidream.toml --device npu\n")  # fmt: skip
    made = snapshot(Path("mine"))
    for name in ("recipes/hidream/requirements.txt", "overlays/hidream-launch/launch.j2", "overlays/launcher/run.py"):
        assert made[name][1] == (REPOSITORY / name).read_bytes(), name
    assert "tiny/hidream.toml" in made
    assert any(name.startswith("patches/hidream/diffusers/01-") for name in made)
    ours, theirs = recipes.load("mine/recipes/hidream.toml"), recipes.load("hidream")
    assert (ours.sha256, ours.root) == (theirs.sha256, Path.cwd() / "mine")
    assert kit("recipe", "copy", "hidream", "mine").err.startswith("kit: error: mine/recipes/hidream.toml exists\n")


@pytest.mark.parametrize("words", [("refresh", "tiny"), ("rebase", "tiny")])
def test_an_installed_kit_is_not_written_to(
    root: Root, kit: Kit, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(beside, "installed", lambda: True)
    monkeypatch.setattr(beside, "shipped_root", lambda: root.place)
    (next(root.patches().iterdir())).unlink()
    before = snapshot(root.place)
    done = kit(*words)
    assert done.status == 1 and snapshot(root.place) == before
    assert done.err == (
        "kit: error: tiny comes with the installed kit, where nothing is written\n"
        "  take it out first: kit recipe copy tiny DIR, then the same for DIR/recipes/tiny.toml\n"
    )
    assert kit("refresh", "--check", "tiny").status == 1, "to look is allowed"
