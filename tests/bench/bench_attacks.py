"""Attack the engine: bad inputs, mutated patches, recipes, locks and scripts, and kills at every write.

python tests/bench/bench_attacks.py [--fast] [--seed N]

Prints, for each kind, the cases tried, those refused with a message, and the failures, which must be 0: `exit 3` (a
bug: anything but a message), `lost` (a file of the user's changed or gone), `escaped` (a path, a name or an id let
through that leaves the tree), `half-written` (what a refusal left behind). The exit status is 1 if there is one.
``--fast`` is what the tests run: a hundredth of the mutations, and no kills.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
import support
from attacks_text import FAILURES, Tally, locks, patches, recipe_files, scripts
from support import Root, write

COUNTS = {"patches": 50_000, "recipes": 10_000, "locks": 10_000, "scripts": 1_000}

# Bad inputs: each command with words, files and folders that are not what it is for.
STARTS = (
    *("status", "status --json", "diff", "diff --stat", "diff --local", "verify", "show", "drift", "rebase", "doctor"),
    *("fix", "fix --diff", "prepare demo --device cpu", "prepare --device cpu", "configure --yes --device cpu"),
    *("refresh --check", "refresh --fix x --why y --from", "env --device cpu", "patch-env --recipe demo", "new x"),
    "tiny hidream",
)
OPTIONS = (
    *("--machines 0", "--machines 3 --machine-rank 3", "--main-port 0", "--processes 3 --machines 2", "--set x"),
    *(
        "--set =",
        "--set x=1",
        "--set x=\ud800",
        "--without x",
        "--with x",
        "--profile x",
        "--device x",
        "--device ../x",
    ),
)
CONTENTS = (
    *("", "\0", "x", "\xff", "name = '''", "\ufeffname = 1", "a.b = 1\n" * 3, "def f(a, a): 0\n"),
    *("[" * 100_000, '{"a":' * 50_000),
)


def inputs(root: Root, only: int = 0) -> Tally:
    """Every command on everything that is not what it is for; ``only`` so many of them, evenly spread."""
    tally = Tally("bad inputs")
    tiny = root.place / "recipes/tiny.toml"
    _kit("prepare", str(tiny), "--device", "cpu", "mine")
    write(Path("mine/up"), {"examples/train.py": "my work\n", "notes.txt": "mine\n"})
    odd = _odd(Path("odd"))
    cases = [(*start.split(), place) for start in STARTS for place in odd]
    cases += [("prepare", str(tiny), *words.split(" "), "new") for words in OPTIONS]
    cases += [("prepare", str(tiny), "--device", "cpu", *words.split(" "), "new") for words in OPTIONS]
    cases += [
        ("verify", *words.split(), "mine") for words in ("--step x", "--fix x", "--case x", "--report /nowhere/x")
    ]
    kept = support.snapshot(Path())
    for words in cases[:: max(1, len(cases) // only)] if only else cases:
        name = " ".join(words)[:200]
        tally.tried += 1
        status, said = _kit(*words)
        tally.refused += status in (1, 2)
        tally.need(status in (0, 1, 2, 4, 5), "exit 3", f"{name}: exit {status}: {said[-200:]}")
        now = support.snapshot(Path())
        lost = [path for path in kept if now.get(path) != kept[path]]
        mended = words[0] == "fix" and words[-1].endswith(".py")
        tally.need(mended or not lost, "lost", f"{name}: {lost}")
        new = [path for path in now.keys() - kept.keys() if ".kit-" in path or path.endswith(".tmp")]
        tally.need(not new, "half-written", f"{name}: {new}")
        kept = now
    return tally


def _odd(place: Path) -> list[str]:
    """Names of things that are not what a command is for, those of files and folders made."""
    for number, text in enumerate(CONTENTS):
        content = text.encode("latin-1" if text == "\xff" else "utf-8")
        write(place, {f"content{number}.toml": content, f"script{number}.py": content})
        write(place, {f"workspace{number}/kit.lock": content})
    (place / "empty").mkdir()
    (place / "loop").symlink_to("loop")
    (place / "dangling.toml").symlink_to("nowhere")
    names = [str(path) for path in sorted(place.iterdir())]
    names += ["", "-", "--", "-x", "..", "/dev/null", "nowhere", "x" * 5000, "a\nb", os.fsdecode(b"\xff"), "https://["]
    return names


def _kit(*words: str) -> tuple[int, str]:
    """Run kit in this process: its exit status and what it, and the git it started, said."""
    from kit.cli import main

    argv, sys.argv = sys.argv, ["kit", *words]
    stdin, sys.stdin = sys.stdin, io.StringIO()
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    status: object = 0
    with tempfile.TemporaryFile() as said:
        try:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            main()
        except SystemExit as ended:
            status = ended.code
        except BaseException as error:
            status = 3
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(kept, 1):
                os.dup2(copy, number)
                os.close(copy)
            sys.argv, sys.stdin = argv, stdin
        said.seek(0)
        return (status if isinstance(status, int) else 0), said.read().decode("utf-8", "replace")


def kills() -> int:
    """Kill every command at each of its writes, where that bench is there; prints, and returns the failures."""
    try:
        import attacks_kill
    except ImportError:
        return 0
    return int(attacks_kill.attack())


def all_of(fast: bool, seed: int, root: Root) -> Iterator[Tally]:
    makers: dict[str, Callable[[int, random.Random], Tally]] = {
        "patches": patches,
        "recipes": recipe_files,
        "locks": locks,
        "scripts": scripts,
    }
    yield inputs(root, 60 if fast else 0)
    for name, maker in makers.items():
        yield maker(COUNTS[name] // (100 if fast else 1), random.Random(f"{seed} {name}"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder, support.sandbox(Path(folder)):
        place = Path(folder)
        root = Root(place / "root", place / "upstream", support.make_upstream(place / "upstream"))
        root.recipe()
        root.refresh()
        print(f"{'':12}{'tried':>8}{'refused':>9}" + "".join(f"{kind:>14}" for kind in FAILURES))
        for tally in all_of(arguments.fast, arguments.seed, root):
            counts = Counter(kind for kind, _ in tally.failures)
            print(
                f"{tally.what:12}{tally.tried:>8}{tally.refused:>9}"
                + "".join(f"{counts[kind]:>14}" for kind in FAILURES)
            )
            for kind, case in tally.failures[:10]:
                print(f"  {kind}: {case!r}"[:400])
            bad += len(tally.failures)
            sys.stdout.flush()
    bad += 0 if arguments.fast else kills()
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
