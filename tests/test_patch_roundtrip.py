"""What is written is read and applied again, by kit and by git."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path
from random import Random

import pytest
from patching import AUTHOR, DATE, LONG, LONGER, PATCHES, TRAIN, refusal, write

from kit.patchfile import blob_id, parse
from kit.patchfit import apply
from kit.patchwrite import render
from kit.paths import TreePath

LINES = (
    *(
        "",
        "a",
        "a",
        "b",
        "    return x",
        "\t ",
        "---",
        "--- a/f0",
        "+++ b/f0",
        "-- ",
        "diff --git a/x b/x",
        "@@ -1 +1 @@",
    ),
    *("\\ No newline", "From: x", "From 1 Mon Sep 17 00:00:00 2001", "Index: x", "a\r", "a\rb", "\f", "a\u2028b"),
    *("a\x85b", "中文 🤖", "\ufeff"),
)


def any_change(seed: int) -> tuple[bytes | None, bytes]:
    """Two contents, or one and the same with a few lines changed; every other one without a line feed at the end."""
    random = Random(seed)
    old = random.choices(LINES, k=random.randrange(25))
    new = list(old) if seed % 3 else random.choices(LINES, k=random.randrange(25))
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(new) + 1)
        new[at : at + random.randrange(3)] = random.choices(LINES, k=random.randrange(3))
    before, after = ("\n".join(lines).encode() + b"\n" * random.randrange(2) for lines in (old, new))
    return before if seed % 7 else None, after


CHANGES = [
    (None, b""),
    (b"", b"a"),
    (b"a", b""),
    (b"a", b"a\n"),
    (b"a\n", b"a"),
    (b"a\r\n", b"a\n"),
    (LONG, LONGER),
    (LONGER, LONG),
    *(change for change in map(any_change, range(800)) if change[0] != change[1]),
]


def test_round_trip() -> None:
    for before, after in CHANGES:
        text = write((before, after))
        (file,) = parse(text, "x.patch").files
        assert apply(file, before, "x.patch") == after
        assert write((before, after)) == text


@pytest.mark.parametrize("seed", range(40))
def test_rubbish_is_refused_and_never_crashes(seed: int) -> None:
    text = (PATCHES / "guard.patch").read_bytes()
    rubbish = any_change(seed)[1] + b"x" if seed % 2 else Random(seed).randbytes(seed * 5 + 1)
    for damaged in (rubbish, text + rubbish, text.replace(b"@@ -6,5", rubbish + b"@@ -6,5")):
        assert refusal(partial(parse, damaged, "x.patch")).message.startswith("x.patch:")


class Repository:
    """A git repository that knows nothing of this machine's configuration."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names = {
            "GIT_AUTHOR_NAME": "a",
            "GIT_AUTHOR_EMAIL": "a@b",
            "GIT_COMMITTER_NAME": "c",
            "GIT_COMMITTER_EMAIL": "c@d",
        }
        private = {"HOME": str(root), "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"}
        self.environment = {"PATH": os.environ["PATH"], **names, **private}
        self.git("init", "--quiet")

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            ["git", *arguments], cwd=self.root, env=self.environment, input=stdin, capture_output=True
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def commit(self, files: dict[str, bytes | None]) -> None:
        for path, content in files.items():
            if content is not None:
                (self.root / path).parent.mkdir(parents=True, exist_ok=True)
                (self.root / path).write_bytes(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "before")

    def am(self, text: bytes, *options: str) -> str:
        """Apply a mailbox and return the message of the commit."""
        self.git("apply", "--check", "-", stdin=text)
        self.git("am", "--quiet", *options, stdin=text)
        return self.git("log", "-1", "--format=%B").decode()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_git_reads_the_same(repository: Repository) -> None:
    repository.commit({f"f{number}": before for number, (before, _) in enumerate(CHANGES)})
    repository.am(write(*CHANGES), "--keep-cr")
    for number, (_, after) in enumerate(CHANGES):
        assert (repository.root / f"f{number}").read_bytes() == after


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("Short", ""),
        (
            "Guard weights.pop against an empty list, " + "which DeepSpeed leaves on every rank but one, " * 8 + "end",
            "Why.\n\nMore.",
        ),
        ("加速器 保存检查点 🤖", "原因 空列表。\n\n    weights.pop()  # 缩进\n\nhuggingface/diffusers#2606"),
        ("Müller's fix: a — b", "ASCII only here"),
        (
            "fix: [not a prefix] here",
            "a --- b\n\n-- \n----\n> From here\nnot From there\n\nSubject: below the first line",
        ),
        ("  two  spaces\tand a tab ", "\n\ntrailing  \n\n\n\nblank lines\n\n"),
        ("PATCH 1", "# not a comment\n-----BEGIN\nFrom: may stand here"),
    ],
    ids=["plain", "long", "chinese", "latin", "marks", "spaces", "comments"],
)
def test_git_commits_the_message_that_parse_reads(repository: Repository, subject: str, body: str) -> None:
    text = write((None, b"x\n"), subject=subject, body=body)
    patch = parse(text, "x.patch")
    repository.commit({})
    message = repository.am(text)
    assert repository.git("log", "-1", "--format=%an <%ae> %ad", "--date=rfc").decode().strip() == f"{AUTHOR} {DATE}"
    assert message == "\n\n".join(filter(None, (patch.subject, patch.body))) + "\n\n"
    assert patch.subject == " ".join(subject.split())


def test_parse_reads_what_git_writes(repository: Repository) -> None:
    """What the hint says to type makes a patch that is read, and whose message is the commit's."""
    repository.commit({"dir/a file.py": TRAIN, "b": b"b"})
    (repository.root / "dir/a file.py").write_bytes(TRAIN.replace(b"save()", b"store()"))
    (repository.root / "b").write_bytes(b"b\n")
    (repository.root / "new").write_bytes(b"")
    subject, body = "Ein Überblick über das, was hier geändert wird, und " + "noch " * 20 + "mehr", "Grund: ä.\n\nMehr."
    repository.git("add", "--all")
    repository.git("commit", "--quiet", "--message", f"{subject}\n\n{body}")
    text = repository.git("format-patch", "-1", "-p", "--full-index", "--no-renames", "--no-signature", "--stdout")
    patch = parse(text, "git.patch")
    assert (patch.subject, patch.body) == (subject, body)
    assert [file.path for file in patch.files] == ["b", "dir/a file.py", "new"]
    assert apply(patch.files[0], b"b", "git.patch") == b"b\n"
    assert apply(patch.files[1], TRAIN, "git.patch") == TRAIN.replace(b"save()", b"store()")
    assert apply(patch.files[2], None, "git.patch") == b""


def test_copies_executables_and_names(repository: Repository) -> None:
    start, copy, script = TreePath("lib/train b/x.py"), TreePath("lib/derived 中.py"), TreePath("run.sh")
    changed = TRAIN.replace(b"save()", b"store()")
    repository.commit({start: TRAIN, script: b"old\n"})
    (repository.root / script).chmod(0o755)
    repository.commit({})
    changes = {copy: (TRAIN, changed), start: (TRAIN, TRAIN + b"end\n"), script: (b"old\n", b"new\n")}
    text = render("Derive", "", changes, AUTHOR, DATE, executables={script}, copies={copy: start})
    patch = parse(text, "copy.patch")
    assert [(file.path, file.source, file.mode) for file in patch.files] == [
        (copy, start, 0o100644),
        (start, start, 0o100644),
        (script, script, 0o100755),
    ]
    assert [apply(file, changes[file.path][0], "x") for file in patch.files] == [changed, TRAIN + b"end\n", b"new\n"]
    repository.am(text)
    assert [(repository.root / path).read_bytes() for path in changes] == [after for _, after in changes.values()]
    assert repository.git("ls-files", "--stage", script).startswith(b"100755")


def test_blob_id_is_gits(repository: Repository) -> None:
    for content in (b"", b"a\r\n", bytes(range(256))):
        assert repository.git("hash-object", "--stdin", stdin=content).decode().strip() == blob_id(content)
