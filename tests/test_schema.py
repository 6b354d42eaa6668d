"""TOML into dataclasses: types, and the line a complaint points at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kit.errors import KitError
from kit.schema import Source, load_toml, nearest, read, tomllib


@dataclass(frozen=True)
class Inner:
    size: int
    ratio: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    inner: tuple[Inner, ...] = ()
    one: Inner | None = None
    words: dict[str, str] = field(default_factory=dict)
    flag: bool | None = None
    hidden: Path = field(default=Path(), metadata={"key": False})


def load(text: str) -> Outer:
    return read(Outer, tomllib.loads(text), Source(Path("x.toml"), text))


def test_everything() -> None:
    inner = "[[inner]]\nsize = 1\nratio = 2\n[[inner]]\nsize = 2\n"
    text = f'name = "n"\nflag = false\n{inner}[one]\nsize = 3\n[words]\na = "b"'
    assert load(text) == Outer("n", (Inner(1, 2.0), Inner(2)), Inner(3), {"a": "b"}, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flag = true", "1: missing key 'name'"),
        ("name = 1", "1: name must be a string, not 1"),
        ('name = "n"\nflag = "no"', "2: flag must be true or false, not 'no'"),
        ('name = "n"\nflag = 1', "2: flag must be true or false, not 1"),
        ('name = "n"\none = 1', "2: one must be a table"),
        ('name = "n"\none = { size = 1.5 }', "2: one.size must be a whole number, not 1.5"),
        ('name = "n"\none.size = "1"', "2: one.size must be a whole number, not '1'"),
        ('name = "n"\n\n[one]\n# size = 1\nsize = "1"', "5: one.size must be a whole number, not '1'"),
        ('name = "n"\n\n[[inner]]\nsize = 1\n\n[[inner]]\nratio = 1\nsize = "2"', "8: inner.size must be"),
        ('name = "n"\n\n[[inner]]\nsize = 1\n\n[[inner]]\nratio = 1', "6: missing key 'size' in [inner]"),
        ('name = "n"\n[words]\na = 1', "3: words.a must be a string, not 1"),
        ('name = "n"\n[words]\n"a" = 1', "3: words.a must be a string, not 1"),
        ('name = "n"\n[ one ] # here\nsize = true', "3: one.size must be a whole number, not True"),
        ('name = "n"\nnames = 1', "2: unknown key 'names'; did you mean 'name'?"),
        ('name = "n"\nhidden = "x"', "2: unknown key 'hidden'"),
    ],
)
def test_the_line(text: str, message: str) -> None:
    with pytest.raises(KitError) as refused:
        load(text)
    assert refused.value.message.startswith(f"x.toml:{message}")


def test_nearest() -> None:
    assert nearest("cuba", ["cuda", "npu"]) == "; did you mean 'cuda'?"
    assert nearest("tpu4", ["cuda"]) == ""


@pytest.mark.parametrize(
    ("text", "line"), [("a = ", 1), ("a = 1\nb = [1,\n", 2), ("a = 1\na = 2\n", 2), ("a = 1\n[a]\n", 2)]
)
def test_not_toml(tmp_path: Path, text: str, line: int) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(KitError) as refused:
        load_toml(path)
    assert refused.value.message.startswith(f"{path}:{line}: not TOML: ")
