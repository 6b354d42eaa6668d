"""The judge of any other fix, by what it does at the pin, which people have read and which runs there: the same
statements must go and come, in the same functions, beside the same neighbours.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import lru_cache

from judge_words import parse, short, undefined


@dataclass(frozen=True)
class Change:
    """Statements that went and came at one place: in which classes and functions, between which neighbours."""

    scope: str
    gone: tuple[str, ...]
    come: tuple[str, ...]
    above: str  # at the beginning of a block, what opens it; "" for the module
    below: str  # at its end, END and what opens it
    test: str = ""  # where a block got another test, the old one; what went and came are words of it then
    value: str = ""  # where a simple statement about the same got another value, what it is about; words of it, too

    @property
    def reads(self) -> set[str]:
        """The names that what comes reads and does not bind itself."""
        if self.test or self.value:
            return set()
        trees = [ast.parse(text) for text in self.come]
        found = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Name)]
        loaded = {node.id for node in found if isinstance(node.ctx, ast.Load)}
        return loaded - set(dir(builtins)) - set.union(set(), *map(bound, trees))

    def like(self, other: Change) -> bool:
        """Whether it is the same change: the same comes, in a function of that name, for statements that begin alike
        (:func:`other_text` tells whether they go on alike). Where nothing goes, one of its neighbours is about the same
        too; an import at the top of the module may stand among others."""
        function, others = (each.scope.rpartition(".")[2] for each in (self, other))
        words = bool(self.test or self.value)
        gone = [list(each.gone if words else map(begins, each.gone)) for each in (self, other)]
        same = (function, self.value, gone[0], self.come) == (others, other.value, gone[1], other.come)
        beside = key(self.above) == key(other.above) or key(self.below) == key(other.below)
        return same and (words or bool(self.gone) or beside or other.is_import)

    @property
    def is_import(self) -> bool:
        """Whether all that comes are imports, beside imports, in the module itself."""
        words = ("import ", "from ")
        beside = self.above.startswith(words) or self.below.startswith(words)
        return not self.scope and beside and all(each.startswith(words) for each in self.come)

    def wanted_in(self, tree: ast.Module) -> bool:
        """Whether a script has the place and lacks the change: what goes is there, or else both neighbours (one, for a
        test); and what comes is not. A place with one neighbour left is told from others only once something came.
        Where what comes would read a name that nothing binds, this is no place: it builds on what is not there."""
        texts = texts_of(tree, self.scope.rpartition(".")[2])
        if self.value:
            lines = [text for text in texts if key(text) == self.value]
            came = any(words in text for text in lines for words in self.come)
            return not came and any(all(words in text for words in self.gone) for text in lines)
        if self.reads - bound(tree):
            return False
        texts |= {key(text) for text in texts} | set(map(begins, texts))
        beside = {key(self.above), key(self.below.removeprefix(END))} - {""}
        if self.test:
            return bool((beside | {self.test}) & texts) and not any(new in text for text in texts for new in self.come)
        there = set(map(begins, self.gone)) <= texts if self.gone else bool(beside) and beside <= texts
        return there and not set(self.come) <= texts


END = "the end of "


@lru_cache(maxsize=256)  # the pin's, again and again
def changes(before: bytes, after: bytes) -> tuple[Change, ...]:
    """How one script differs from another, statement by statement. Raises SyntaxError."""
    return tuple(_changes(parse(before), parse(after), ""))


def _changes(old: ast.AST, new: ast.AST, scope: str) -> Iterator[Change]:
    inner = f"{scope}.{old.name}" if isinstance(old, (ast.ClassDef, ast.FunctionDef)) else scope
    for field in ("body", "orelse", "handlers", "finalbody"):
        left, right = getattr(old, field, []), getattr(new, field, [])
        if not isinstance(left, list):
            continue
        texts = ([head(node) for node in left], [head(node) for node in right])
        for kind, a, b, c, d in SequenceMatcher(None, *texts, autojunk=False).get_opcodes():
            pairs = list(zip(left[a:b], right[c:d], strict=False))
            if kind != "equal":
                opens = "" if isinstance(new, ast.Module) else head(new)
                above = short(texts[1][c - 1]) if c else opens
                below = short(texts[1][d]) if d < len(right) else END + opens
                other = b - a == d - c and all(type(x) is type(y) and about(x) == about(y) for x, y in pairs)
                if not other:
                    gone, come = ([ast.unparse(node) for node in some] for some in (left[a:b], right[c:d]))
                    yield Change(inner, tuple(gone), tuple(come), above, below)
                    continue
                for x, y in pairs:  # the same under another test or with another value: what of that went and came
                    words = (head(x).split(), head(y).split())
                    codes = [code for code in SequenceMatcher(None, *words).get_opcodes() if code[0] != "equal"]
                    gone = [" ".join(words[0][i:j]) for _, i, j, _, _ in codes]
                    come = [" ".join(words[1][k:m]) for _, _, _, k, m in codes]
                    test, value = (head(x), "") if hasattr(x, "body") else ("", about(x))
                    yield Change(inner, tuple(gone), tuple(come), above, below, test, value)
            for x, y in pairs:
                yield from _changes(x, y, inner)


def about(node: ast.AST) -> str:
    """What a simple statement is about; "" for a compound one."""
    return "" if hasattr(node, "body") else key(ast.unparse(node))


def bound(tree: ast.AST) -> set[str]:
    """The names that something in a tree binds, anywhere."""
    found = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.alias):
            found.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
    return found


def head(node: ast.AST) -> str:
    """A simple statement; the first line of a compound one."""
    text = ast.unparse(node)
    return short(text) if hasattr(node, "body") else text


def key(text: str) -> str:
    """What a statement is about: what it calls or assigns, not with what."""
    return text if text.startswith(("if ", "for ", "while ", "with ")) else text.partition("(")[0].partition(" = ")[0]


def begins(text: str) -> str:
    """What the first line of a statement is about, and what it calls for that."""
    line = short(text)
    target, equals, value = line.partition(" = ")
    calls = equals and "(" in value and key(line) == target
    return f"{target} = {value.partition('(')[0]}" if calls else key(line)


def texts_of(tree: ast.Module, function: str) -> set[str]:
    """The statements of the functions or classes of that name ("": the module's own), not those of functions inside
    them, whole and by their first line."""
    found: set[str] = set()

    def visit(node: ast.AST, here: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.excepthandler)):
                if here == function and isinstance(child, ast.stmt):
                    text = ast.unparse(child)
                    found.update((text, short(text)))
                visit(child, child.name if isinstance(child, (ast.ClassDef, ast.FunctionDef)) else here)

    visit(tree, "")
    return found


def differs(wanted: Sequence[Change], before: bytes, after: bytes) -> str:
    """How what was done to a script differs from the changes ``wanted``; "" where it does not."""
    try:
        made = changes(before, after)
    except SyntaxError as error:
        return f"not Python: line {error.lineno}: {error.msg}"
    for change in wanted:
        if not any(change.like(other) for other in made):
            return f"not done in {change.scope or 'the module'}: {short((*change.come, *change.gone)[0])}"
    for other in made:
        if not any(change.like(other) for change in wanted):
            return f"also done in {other.scope or 'the module'}: {short((*other.come, *other.gone)[0])}"
    if loose := undefined(after) - undefined(before):
        return f"not defined: {', '.join(sorted(loose))}"
    return ""


def other_text(wanted: Sequence[Change], before: bytes, after: bytes) -> bool:
    """Whether statements went that begin as those at the pin, and go on otherwise: whoever relies on the fix there
    should read what they did."""
    return {each.gone for each in changes(before, after)} != {each.gone for each in wanted}
