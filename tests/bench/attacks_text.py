"""Attacks on what kit reads as text: mutated patches, recipes, locks and scripts. `bench_attacks.py` runs them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from support import REPOSITORY, TRAIN

from kit import fixes, lock, patchfile, patchfit, patchwrite, recipes
from kit.commands import fix
from kit.errors import KitError
from kit.paths import ID, NAME, TreePath, tree_path

FAILURES = ("exit 3", "lost", "escaped", "half-written")


@dataclass
class Tally:
    """What came of the cases of one kind; a failure is its kind and the case."""

    what: str
    tried: int = 0
    refused: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @contextlib.contextmanager
    def case(self, name: str) -> Iterator[None]:
        """One case: a message is a refusal, any other exception a failure."""
        self.tried += 1
        try:
            yield
        except KitError:
            self.refused += 1
        except Exception as error:
            self.failures.append(("exit 3", f"{name}: {type(error).__name__}: {error}"[:300]))

    def need(self, good: object, kind: str, name: str) -> None:
        if not good:
            self.failures.append((kind, name))


# Mutations of text: what a careless editor, a cut transfer or a stranger makes of it.

WORDS = (
    *(
        "..",
        "/etc/passwd",
        ".git/config",
        "--output=x",
        "a/../b",
        "~",
        "\\",
        "\0",
        "\r",
        "\t",
        "é",
        "\ud800",
        "\x1b[2J",
    ),
    *("-1", "0", "1e999", "9" * 5000, "(" * 300, "{}", "[", '"', "'", "null"),
    *("diff --git a/x b/y", "@@ -1 +1 @@", "[[fix]]"),
)


def mutated(text: str, rng: random.Random) -> str:
    """``text`` with one to four changes."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        lines = text.split("\n")
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        spot = rng.randrange(len(text) + 1)
        word = rng.choice(WORDS)
        quoted = [match.span(1) for match in re.finditer(r'"([^"\n]*)"', text)]
        kind = rng.randrange(-4, 8) if quoted else rng.randrange(8)
        if kind < 0:
            start, stop = rng.choice(quoted)
            text = text[:start] + word + text[stop:]
        elif kind == 0:
            text = text[:spot] + word + text[spot:]
        elif kind == 1:
            text = text[:spot] + text[spot + rng.choice((1, 1, 5, 40)) :]
        elif kind == 2:
            text = text[:spot] + chr(rng.choice((*range(128), 233, 0x2028))) + text[spot + 1 :]
        elif kind == 3:
            text = text[:spot]
        elif kind == 4:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 5:
            del lines[at]
        elif kind == 6:
            lines.insert(at, lines[other])
        else:
            parts = lines[at].split(" ")
            parts[rng.randrange(len(parts))] = word
            lines[at] = " ".join(parts)
        text = "\n".join(lines) if kind > 3 else text
    return text


def patches(count: int, rng: random.Random) -> Tally:
    """Patches as kit writes them, and those that come with it: read, and applied to the file they are for."""
    tally = Tally("patches")
    after = TRAIN.replace("weights.pop()", "weights and weights.pop()").replace(
        "import argparse\n", "import argparse, os\n"
    )
    path, new = TreePath("examples/train.py"), TreePath("new.py")
    author, date = "kit <kit@localhost>", "Thu, 01 Jan 2026 00:00:00 +0000"
    changes: dict[TreePath, tuple[bytes | None, bytes]] = {
        path: (TRAIN.encode(), after.encode()),
        new: (None, b"a\nb\n"),
    }
    own = patchwrite.render("Guard the list", "Why: it may be empty.", changes, author, date).decode()
    shipped = [each.read_text("utf-8") for each in sorted((REPOSITORY / "patches").rglob("*.patch"))]
    shipped = sorted(shipped, key=len)[:40]
    for number in range(count):
        text = mutated(own if number % 2 else rng.choice(shipped), rng)
        name = f"patch {number}"
        with tally.case(name):
            read = patchfile.parse(text.encode("utf-8", "surrogatepass"), name)
            for each in read.files:
                tally.need(tree_path(each.path), "escaped", name)
                source = {path: TRAIN.encode(), new: None}.get(each.source or each.path, b"other\n")
                made = patchfit.apply(each, source, name)
                tally.need(patchfile.blob_id(made) == each.postimage, "half-written", name)
    return tally


def recipe_files(count: int, rng: random.Random) -> Tally:
    tally = Tally("recipes")
    texts = [(REPOSITORY / "tests/recipes/valid_everything.toml").read_text("utf-8")]
    texts += [(REPOSITORY / f"recipes/{name}.toml").read_text("utf-8") for name in ("demo",)]
    with tempfile.TemporaryDirectory() as folder:
        for name, overlay in (("recipes", ""), ("overlays", "files"), ("overlays", "demo"), ("overlays", "shared")):
            (Path(folder) / name / overlay).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            text = mutated(texts[number % 2], rng) if number > 1 else texts[number]  # those two are sound
            place = Path(folder) / "recipes" / f"{'valid_everything' if not number % 2 else 'demo'}.toml"
            place.write_bytes(text.encode("utf-8", "surrogatepass"))
            with tally.case(f"recipe {number}"):
                found = recipes.parse(place)
                for step in found.fix:
                    tally.need(all(map(tree_path, step.files)) and NAME.fullmatch(step.id), "escaped", text)
                for upstream in found.upstream:
                    tally.need(NAME.fullmatch(upstream.name) and ID.fullmatch(upstream.pin), "escaped", text)
                for part in found.overlay:
                    tally.need(tree_path(part.source) and (part.into == "." or tree_path(part.into)), "escaped", text)
    return tally


def locks(count: int, rng: random.Random) -> Tally:
    """Locks with values changed, and their hash with them; and locks changed as text."""
    tally = Tally("locks")
    id = "0123456789" * 4
    made = lock.LockedFix("weights-pop", "applied", id, {TreePath("a.py"): id})
    up = lock.LockedUpstream("https://x", id, id, id, [made], id, {TreePath("a.py"): f"100644 {id}"})
    whole = lock.Lock("demo", id, "npu", {"machines": 1}, ["x"], {"up": up, "two": up}, "0.1", {"a": 1}, ["y"])
    values = (*WORDS, 1, True, None, [], {}, [[]], {"a": {}}, 1e300, id, f"120000 {id}", id.upper(), f"{id}\n")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        lock.write(whole, place)
        text = (place / lock.NAME).read_text("utf-8")
        for number in range(count):
            body = json.loads(text)
            del body["sha256"]
            for _ in range(rng.choice((1, 1, 2, 3))):
                _change(body, rng, values)
            digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
            forged = json.dumps({**body, "sha256": digest}) if number % 4 else mutated(text, rng)
            (place / lock.NAME).write_bytes(forged.encode("utf-8", "surrogatepass"))
            with tally.case(f"lock {number}"):
                read = lock.read(place)
                for name, each in read.upstreams.items():
                    ids = [each.pin, each.commit, each.tree, *(fix.commit for fix in each.fixes if fix.commit)]
                    good = NAME.fullmatch(name) and all(map(ID.fullmatch, ids)) and all(map(tree_path, each.files))
                    tally.need(good, "escaped", forged)
    return tally


def _change(body: Any, rng: random.Random, values: tuple[Any, ...]) -> None:
    """One value somewhere in ``body`` replaced, one key renamed or taken out."""
    while True:
        keys = list(body) if isinstance(body, dict) else list(range(len(body)))
        if not keys:
            return
        key = rng.choice(keys)
        inner = body[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
            body = inner
            continue
        kind = rng.randrange(4)
        if kind == 0:
            del body[key]
        elif kind == 1 and isinstance(body, dict):
            body[str(rng.choice(values))] = body.pop(key)
        else:
            body[key] = rng.choice(values)
        return


def _compiles(content: bytes, name: str) -> bool:
    """Python says more of a script than whether it parses: `break` outside a loop."""
    try:
        compile(content, name, "exec", dont_inherit=True)
    except SyntaxError:
        return False
    return True


def scripts(count: int, rng: random.Random) -> Tally:
    """Training scripts: what a fix makes of one compiles, or it is refused and left alone."""
    tally = Tally("scripts")
    chosen = fix.options_for(fixes.with_brought(fixes.general()), None)
    for number in range(count):
        content = mutated(TRAIN, rng).encode("utf-8", "surrogatepass")
        name = f"script {number}"
        with tally.case(name):
            try:
                _, made = fix.mend(content, name, chosen)
            except RecursionError:  # `kit fix` has a message for it
                continue
            if made != content and _compiles(content, name):
                tally.need(_compiles(made, name), "half-written", name)
    return tally
