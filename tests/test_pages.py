"""A page and its Chinese twin stay together: the same blocks in the same order, with the same code, figures and links.

A block is a heading, a paragraph, a list item, a row of a table, a code block or a line of HTML. Words are not
compared; what follows `# ` in a code block is a comment, and words as well.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
CHINESE = ".zh-CN.md"
SPAN, LINK, FIGURE = re.compile(r"`([^`]+)`"), re.compile(r"\]\(([^)#]*)[^)]*\)"), re.compile(r"\d+(?:[.,]\d+)*")
COMMENT = re.compile(r"(^|\s+)# .*$")
STARTS = (
    ("heading", re.compile(r"#+ ")),
    ("item", re.compile(r"(?:[-*]|\d+\.) ")),
    ("row", re.compile(r"\|")),
    ("HTML", re.compile("<")),
)


class Block(NamedTuple):
    line: int
    kind: str
    text: str


def blocks(text: str) -> list[Block]:
    """The blocks of a page. A paragraph or an item may go on over lines; the kind of a heading has its level."""
    found: list[Block] = []
    fence = blank = False
    for number, line in enumerate(text.splitlines(), 1):
        last = found[-1].kind if found else ""
        if line.startswith("```"):
            fence = not fence
            if fence:
                found.append(Block(number, "code", line))
        elif fence or (line.startswith("    ") and (last == "code" or blank)):
            if last != "code":
                found.append(Block(number, "code", line))
            else:
                found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{line}")
        elif line.strip():
            kind = next((kind for kind, start in STARTS if start.match(line)), "paragraph")
            if kind == "paragraph" and not blank and last in ("paragraph", "item"):
                found[-1] = found[-1]._replace(text=f"{found[-1].text} {line.strip()}")
            else:
                level = f" of level {line.index(' ')}" if kind == "heading" else ""
                found.append(Block(number, kind + level, line))
        blank = not line.strip()
    return found


def holds(block: Block) -> Counter[str]:
    """What must be in both languages, each with what to call it."""
    if block.kind == "code":
        return Counter(f"line {COMMENT.sub('', line).strip()}" for line in block.text.splitlines())
    words = LINK.sub("]", SPAN.sub("", block.text))
    return (
        Counter(f"`{' '.join(span.split())}`" for span in SPAN.findall(block.text))
        + Counter(f"link {target.replace(CHINESE, '.md')}" for target in LINK.findall(block.text))
        + Counter(f"figure {figure}" for figure in FIGURE.findall(words))
    )


def differences(english: str, chinese: str, name: str = "page") -> list[str]:
    """One line for each thing that only one page has. Where two blocks are of different kinds, the rest is not read."""
    lines = []
    for one, other in zip_longest(blocks(english), blocks(chinese)):
        if one is None or other is None or one.kind != other.kind:
            sides = (
                f"{name}{end}:{each.line} has: {each.kind}" if each else f"{name}{end} has ended"
                for each, end in ((one, ".md"), (other, CHINESE))
            )
            return [*lines, ", ".join(sides)]
        for has, lacks, there, here in ((one, other, ".md", CHINESE), (other, one, CHINESE, ".md")):
            lines += [
                f"{name}{here}:{lacks.line} lacks {thing} of {name}{there}:{has.line}"
                for thing in (holds(has) - holds(lacks)).elements()
            ]
    return lines


def pages() -> list[str]:
    """Each page that is in two languages: the README and those of recipes/."""
    found = {str(path.relative_to(ROOT)) for each in ("README*.md", "recipes/*.md") for path in ROOT.glob(each)}
    return sorted({page.removesuffix(CHINESE).removesuffix(".md") for page in found})


@pytest.mark.parametrize("name", pages())
def test_both_languages_say_the_same(name: str) -> None:
    english, chinese = ((ROOT / f"{name}{end}").read_text("utf-8") for end in (".md", CHINESE))
    found = differences(english, chinese, name)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("name", pages())
def test_links_stay_in_their_language(name: str) -> None:
    for end, other, language in ((".md", CHINESE, "中文"), (CHINESE, ".md", "English")):
        page = ROOT / f"{name}{end}"
        text = page.read_text("utf-8")
        switch = f"[{language}]({page.name.removesuffix(end)}{other})"
        assert switch in "".join(text.splitlines()[:4]), f"{page.name}: the first lines have no {switch}"
        for target in LINK.findall(text.replace(switch, "")):
            if target and "://" not in target:
                wanted = target.replace(CHINESE, ".md").replace(".md", end)
                wanted = wanted if (page.parent / wanted).exists() else target
                assert (page.parent / target).exists() and target == wanted, f"{page.name}: {target}, not {wanted}"


PAGE = """\
# A page

    kit prepare demo   # a comment
    cd demo

Train in
4 steps with `--lr=1`, see [more](b.md).

- an item

| `x` | 1.5 s |
"""


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("# a comment", "# 注释", []),
        ("Train in\n4 steps with", "训练 4 步，用", []),
        ("(b.md)", "(b.zh-CN.md)", []),
        ("1.5 s", "1.6 s", ["p.zh-CN.md:11 lacks figure 1.5 of p.md:11", "p.md:11 lacks figure 1.6 of p.zh-CN.md:11"]),
        ("`--lr=1`", "它", ["p.zh-CN.md:6 lacks `--lr=1` of p.md:6"]),
        ("--lr=1", "--lr=2", ["p.zh-CN.md:6 lacks `--lr=1` of p.md:6", "p.md:6 lacks `--lr=2` of p.zh-CN.md:6"]),
        ("(b.md)", "(c.md)", ["p.zh-CN.md:6 lacks link b.md of p.md:6", "p.md:6 lacks link c.md of p.zh-CN.md:6"]),
        ("    cd demo\n", "", ["p.zh-CN.md:3 lacks line cd demo of p.md:3"]),
        ("# A", "## A", ["p.md:1 has: heading of level 1, p.zh-CN.md:1 has: heading of level 2"]),
        ("- an item\n\n", "", ["p.md:9 has: item, p.zh-CN.md:9 has: row"]),
        ("| `x` | 1.5 s |\n", "", ["p.md:11 has: row, p.zh-CN.md has ended"]),
    ],
)
def test_what_differs_is_named_with_its_side_and_line(old: str, new: str, found: list[str]) -> None:
    assert old in PAGE
    assert differences(PAGE, PAGE.replace(old, new, 1), "p") == found
