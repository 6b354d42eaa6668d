"""`kit new`: a recipe to start from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import TRAIN, Done, Root, git, make_upstream

from kit import recipes

Kit = Callable[..., Done]

TWO = TRAIN.replace("            weights.pop()\n", "            weights.pop()\n            weights.pop()\n")


def test_a_recipe_that_works(root: Root, kit: Kit) -> None:
    pin = make_upstream(root.upstream, {"examples/two.py": TWO})
    git("tag", "-a", "v1", "-m", "v1", at=root.upstream)
    done = kit("new", "mine", root.upstream, "v1", "examples/train.py", "examples/two.py")
    assert (done.status, done.err) == (0, "")
    assert done.out.endswith("next:\n  kit show recipes/mine.toml\n  kit prepare recipes/mine.toml --device cpu\n")
    assert "  applied  weights-pop        examples/train.py\n" in done.out
    found = recipes.parse(Path("recipes/mine.toml").absolute())
    assert (found.upstream[0].pin, found.upstream[0].sparse) == (pin, ("examples",))
    assert [(step.id, step.use, step.count, step.files) for step in found.fix] == [
        ("progress-print", "", 1, ("examples/train.py", "examples/two.py")),
        ("stop-at-max-steps", "", 1, ("examples/train.py", "examples/two.py")),
        ("weights-pop", "", 1, ("examples/train.py",)),
        ("weights-pop-2", "weights-pop", 2, ("examples/two.py",)),
    ]
    made = kit("prepare", "recipes/mine.toml", "--device", "cpu")
    assert made.status == 0 and made.out.count("patch, exactly") == 4
    assert kit("verify").status == 0
    assert kit("new", "mine", root.upstream, pin).err.startswith("kit: error: recipes/mine.toml exists\n")


def test_without_files(root: Root, kit: Kit) -> None:
    assert kit("new", "mine", root.upstream, root.pin).status == 0
    assert recipes.parse(Path("recipes/mine.toml").absolute()).fix == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("Mine", "{up}", "{pin}"), "bad name 'Mine'"),
        (("mine", "{up}", "nowhere"), "{up} has no nowhere"),
        (("mine", "{up}", "--upload-pack=x"), "No such option"),
        (("mine", "ext::sh/x", "{pin}"), "url 'ext::sh/x' is not https"),
        (("mine", "ext::sh", "main"), "'main' of 'ext::sh' is nothing to ask for"),
        (("mine", "{up}", "{pin}", "../x.py"), "FILE: '../x.py' has an empty, '.' or '..' part"),
        (("mine", "{up}", "{pin}", "examples/trian.py"), "is not in the upstream; did you mean 'examples/train.py'?"),
        (("mine", "{up}", "0" * 40), "does not have the commit"),
    ],
)
def test_refused_and_nothing_is_left(root: Root, kit: Kit, arguments: tuple[str, ...], said: str) -> None:
    words = {"up": root.upstream, "pin": root.pin}
    done = kit("new", *(argument.format(**words) for argument in arguments))
    assert done.status in (1, 2) and done.out == "" and said.format(**words) in done.err
    assert not Path("recipes").exists()
