"""Every requirements file of every recipe, for every device and setting that changes it, resolves from the registry for
the platform it is for, or says in its first lines where the wheel is that no registry has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kit import environment, overlay, planning, recipes
from kit.errors import KitError
from kit.options import Scalar
from kit.recipe import Recipe

PLATFORMS = {"npu": "aarch64-manylinux_2_28", "mps": "aarch64-apple-darwin"}
OTHER = "x86_64-manylinux_2_28"
AT_ONCE = 8
HEAD = 8  # the lines in which a file says where a wheel is


def values(found: Recipe, device: str) -> Iterator[dict[str, Scalar]]:
    """The recipe's options on a device at their defaults, then with each other choice of each option."""
    default = found.options(device)
    yield default
    for option in found.option:
        for choice in option.choices or ((True, False) if isinstance(option.default, bool) else ()):
            if choice != default[option.name] and device in option.only_on.get(str(choice), (device,)):
                yield {**default, option.name: choice}


def requirements(found: Recipe, device: str) -> Iterator[tuple[str, str, str]]:
    """Each different requirements file for a device: its name, its text and the Python it is for."""
    seen = set()
    for options in values(found, device):
        chosen = found.at(device, options)
        its = chosen.device(device)
        context = planning.context(chosen, its, planning.cluster_of(chosen, its), options)
        parts = [part for up in found.upstream for part in found.overlays(up.name, device)]
        files = [file for part in parts for file in overlay.render(found.roots, part, context).items()]
        for path, (_, content) in files:
            text = content.decode("utf-8", "replace")
            if re.search(r"requirements[^/]*\.txt$", path) and text not in seen:
                seen.add(text)
                yield path, text, chosen.environment.python


FILES = [
    pytest.param(device, *each, id=f"{name}-{device}-{number}")
    for name in recipes.names()
    for device in recipes.load(name).devices
    for number, each in enumerate(requirements(recipes.load(name), device))
]


def elsewhere(text: str) -> list[str]:
    """The packages that a file's first lines say are on no registry, with an address."""
    head = [line for line in text.splitlines()[:HEAD] if line.startswith("#")]
    return re.findall(r"(?m)^# (\w+) \S+ is on no registry\b.*(?:\n#.*)*https://", "\n".join(head))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What uv says of each file's text: "" where it resolves. They are asked side by side, since waiting for the
    registry takes the time. Skips where uv cannot resolve the simplest thing there is."""
    folder = tmp_path_factory.mktemp("requirements")
    if refused := answer("attrs\n", "3.10", "x86_64-manylinux_2_28", folder / "attrs.txt"):
        pytest.skip(f"the registry cannot be reached: {refused.splitlines()[1]}")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        asked = {}
        for number, each in enumerate(FILES):
            device, _, text, python = each.values
            for part in {text, without(text, elsewhere(text))}:
                place = folder / f"{number}-{len(part)}.txt"
                asked[part] = pool.submit(answer, part, python, PLATFORMS.get(device, OTHER), place)
        return {text: future.result() for text, future in asked.items()}


def answer(text: str, python: str, platform: str, source: Path) -> str:
    """What uv says where it cannot resolve requirements; "" where it can."""
    source.write_text(text)
    options = ("--quiet", "--no-header", "--no-annotate", "--python-version", python, "--python-platform", platform)
    try:
        environment.uv("pip", "compile", *options, source)
    except KitError as error:
        return str(error)
    return ""


def without(text: str, names: list[str]) -> str:
    return re.sub(rf"(?m)^({'|'.join(names)})==.*\n", "", text) if names else text


def test_there_are_files_for_every_device() -> None:
    assert {str(each.id).rsplit("-", 1)[0] for each in FILES} == {
        f"{name}-{device}" for name in recipes.names() for device in recipes.load(name).devices if name != "demo"
    }


@pytest.mark.parametrize(("device", "path", "text", "python"), FILES)
def test_it_resolves_or_says_where(device: str, path: str, text: str, python: str, answers: dict[str, str]) -> None:
    names = elsewhere(text)
    assert answers[without(text, names)] == ""
    for name in names:
        assert name.replace("_", "-") in answers[text], f"{path} says that {name} is on no registry, and it is on one"
