"""Recipes: everything one can get wrong has a file in tests/recipes, which begins with the words it is refused with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY, Root, write

from kit import devices, fixes, recipe, recipes
from kit.errors import KitError

RECIPES = Path(__file__).parent / "recipes"


# What grows with kit is not repeated in each file.


def keys(table: Any) -> list[str]:
    """The keys of a table of a recipe."""
    return [field.name for field in dataclasses.fields(table) if field.metadata.get("key", True)]


LISTS = {
    "<devices>": devices.names(),
    "<fixes>": ["patch", *fixes.names((RECIPES.parent,))],
    "<recipe keys>": keys(recipe.Recipe),
    "<upstream keys>": keys(recipe.Upstream),
    "<fix keys>": keys(recipe.FixStep),
    "<environment keys>": keys(recipe.Environment),
}


def words(path: Path) -> str:
    """The comment block at the top of a recipe, its lists filled in."""
    lines = path.read_text("utf-8").splitlines()
    text = "\n".join(line.removeprefix("# ") for line in lines[: lines.index("")])
    for name, items in LISTS.items():
        text = text.replace(name, ", ".join(items))
    return text


@pytest.mark.parametrize("path", sorted(RECIPES.glob("invalid_*.toml")), ids=lambda path: path.stem)
def test_refused(path: Path) -> None:
    with pytest.raises(KitError) as refused:
        recipes.parse(path)
    assert str(refused.value).replace(str(RECIPES.parent), "tests") == words(path)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("valid_*.toml")), ids=lambda path: path.stem)
def test_accepted(path: Path, tmp_path: Path) -> None:
    assert recipes.parse(_settled(path, tmp_path)).name == path.stem


def _settled(path: Path, root: Path) -> Path:
    """A copy of a recipe, with the overlay folder it names beside it."""
    (root / "overlays" / "files").mkdir(parents=True)
    return write(root / "recipes", {path.name: path.read_bytes()}) / path.name


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory\n  run `kit list` for the recipes there are"),
        (b'name = "\xff"', "not UTF-8 at byte 8\n  save the file as UTF-8"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "tiny.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KitError) as refused:
        recipes.load(str(path))
    assert str(refused.value) == f"{path}: {words}"


def test_unknown_name() -> None:
    with pytest.raises(KitError) as refused:
        recipes.load("hidraem")
    known = ", ".join(recipes.names())
    assert str(refused.value) == (
        f"unknown recipe 'hidraem'; did you mean 'hidream'?\n  known recipes: {known}; or give the path of a .toml"
    )


def test_unsupported_device(root: Root) -> None:
    with pytest.raises(KitError) as refused:
        recipes.parse(root.recipe()).device("cuda")
    assert str(refused.value) == "recipe tiny does not support device 'cuda'\n  supported: cpu, npu"


def test_shipped() -> None:
    assert (
        {path.stem for path in (REPOSITORY / "recipes").glob("*.toml")} == set(recipes.names()) >= {"demo", "hidream"}
    )
    for name in recipes.names():
        assert recipes.load(name).name == name


def test_frozen_and_complete(tmp_path: Path) -> None:
    found = recipes.parse(_settled(RECIPES / "valid_everything.toml", tmp_path))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.name = "other"  # type: ignore[misc]
    up, other = found.upstream
    assert up.alternates == ("https://example.invalid/mirror", "/srv/mirror")
    assert [number for number, _ in found.series("up", "cpu")] == [1]
    assert [number for number, _ in found.series("up", "npu")] == [1, 3]
    assert [(number, step.id) for number, step in found.series("other", "npu")] == [(2, "twice")]
    assert [overlay.into for overlay in found.overlays("up", "npu")] == ["examples"] and not found.overlays("up", "cpu")
    assert found.device("npu").packages == {"torch_npu": "2.7.1.post2"} and found.device("cpu").packages == {}
    assert found.cluster.processes == 16 and found.figure[0].value == 18.0 and other.sparse == ()


def test_one_upstream_need_not_be_repeated() -> None:
    found = recipes.parse(RECIPES / "valid_least.toml")
    assert found.fix[0].upstream == "up"


def test_options(tmp_path: Path) -> None:
    """A default, what a profile says, what is given: the last one wins, each of the option's own type."""
    found = recipes.parse(_settled(RECIPES / "valid_everything.toml", tmp_path))
    assert found.options("cpu") == {"speed": "fast", "steps": 10, "careful": False, "rate": 0.5, "model": "org/model"}
    assert found.options("cpu", "small") == {
        "speed": "slow",
        "steps": 1,
        "careful": True,
        "rate": 0.5,
        "model": "org/model",
    }
    assert found.options("npu", "small")["speed"] == "stopped"
    given = found.options("npu", "small", {"steps": "3", "careful": "True", "rate": "1e-4", "speed": "fast"})
    assert given == {"speed": "fast", "steps": 3, "careful": True, "rate": 1e-4, "model": "org/model"}


@pytest.mark.parametrize(
    ("profile", "given", "said"),
    [
        ("smal", {}, "recipe valid_everything has no profile 'smal'; did you mean 'small'?\n  its profiles: small"),
        ("", {"sped": "1"}, "has no option 'sped'; did you mean 'speed'?\n  its options: kit show {path}"),
        ("", {"steps": "few"}, "option steps is a whole number, not 'few'\n  --set steps=10"),
        ("", {"careful": "yes"}, "option careful is true or false, not 'yes'\n  --set careful=false"),
        ("", {"rate": "much"}, "option rate is a number, not 'much'\n  --set rate=0.5"),
        ("", {"speed": "slo"}, "option speed: no 'slo'; did you mean 'slow'?\n  one of: fast, slow, stopped"),
        (
            "",
            {"speed": "stopped"},
            "option speed: stopped is for npu only, and this is cpu\n  --set speed=…, one of: fast, slow",
        ),
        ("", {"rate": "1"}, "option rate does nothing with careful=false\n  leave it out; it is for careful=true"),
    ],
)
def test_options_refused(profile: str, given: dict[str, str], said: str, tmp_path: Path) -> None:
    found = recipes.parse(_settled(RECIPES / "valid_everything.toml", tmp_path))
    with pytest.raises(KitError) as refused:
        found.options("cpu", profile, given)
    assert str(refused.value).endswith(said.replace("{path}", str(found.path)))


def test_an_option_that_another_disables_is_refused_where_it_is_given(tmp_path: Path) -> None:
    found = recipes.parse(_settled(RECIPES / "valid_everything.toml", tmp_path))
    assert found.options("npu", "small")["rate"] == 0.5  # not given
    with pytest.raises(KitError) as refused:
        found.options("npu", "small", {"rate": "1"})
    assert refused.value.message == "option rate does nothing with speed=stopped (profile small)"
    assert refused.value.hint == "leave it out; it is for speed=fast or slow"


def test_what_comes_next_once_all_that_is_needed_is_set(tmp_path: Path) -> None:
    found = recipes.parse(_settled(RECIPES / "valid_everything.toml", tmp_path))
    helped = dataclasses.replace(found, next=("bash up/run.sh --help",))
    assert helped.then("cpu", found.options("cpu")) == ("bash up/run.sh --help",)
    assert helped.then("cpu", found.options("cpu", given={"model": "/m"})) == ("bash up/run.sh",)
    unasked = dataclasses.replace(helped, option=found.option[:-1])
    assert unasked.then("cpu", {}) == ("bash up/run.sh --help",)


def test_a_condition_is_that_of_the_option_it_names_too() -> None:
    lokr = recipes.load("hidream-lokr")
    assert lokr.options("cpu", given={"lycoris": "feedforward"})["lycoris"] == "feedforward"
    for given, why in (
        ({"model_type": "full", "lycoris": "attention"}, "model_type=full"),
        ({"lora_type": "standard", "lycoris": "attention"}, "lora_type=standard"),
        ({"lora_rank": "4"}, "lora_type=lycoris"),
    ):
        with pytest.raises(KitError, match=f"does nothing with {why}\n"):
            lokr.options("cpu", given=given)


def test_extra_fixes(tmp_path: Path) -> None:
    """Off unless asked for, with the overlays that belong to them; their numbers stay."""
    found = recipes.parse(_settled(RECIPES / "valid_everything.toml", tmp_path))
    assert not found.overlays("other", "cpu") and [number for number, _ in found.series("up", "cpu")] == [1]
    more = found.having(["more"])
    assert [overlay.into for overlay in more.overlays("other", "cpu")] == ["."]
    assert [number for number, _ in more.series("up", "cpu")] == [1, 4] and more.extras == ("more",)
    with pytest.raises(KitError, match="has no extra fix 'mor'; did you mean 'more'") as refused:
        found.having(["mor"])
    assert refused.value.hint == "its extra fixes: more"


def test_a_default_may_differ_by_device_and_brings_its_environment(root: Root) -> None:
    option = {"name": "torch", "default": "2.1.0", "choices": ["2.7.1", "2.1.0"], "meaning": "torch"}
    environment = {"python": "3.10", "packages": {"torch": "2.1.0"}, "other": {'"2.7.1"': {"python": "3.12"}}}
    found = recipes.load(str(root.recipe(environment=environment, option=[{**option, "default_on": {"npu": "2.7.1"}}])))
    assert (found.options("cpu"), found.options("npu")) == ({"torch": "2.1.0"}, {"torch": "2.7.1"})
    at = {device: found.at(device).environment for device in ("cpu", "npu")}
    assert (at["cpu"].python, at["cpu"].torch, at["cpu"].packages) == ("3.10", "", {"torch": "2.1.0"})
    assert (at["npu"].python, at["npu"].torch, at["npu"].packages) == ("3.12", "2.7.1", {"torch": "2.7.1"})
    assert found.at("npu", {"torch": "2.1.0"}).environment == at["cpu"]
    assert found.options("npu", given={"torch": "2.1.0"}) == {"torch": "2.1.0"}
