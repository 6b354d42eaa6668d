"""Take a seed of 0 for a seed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import defaults, every, text

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "draw with the seed that is given, 0 included"
WHY = """\
`Generator(…).manual_seed(args.seed) if args.seed else None` takes `--seed=0` for no seed: the images of a validation
come from the random numbers that training goes on with. They differ from one validation to the next, and a run that is
validated more or less often trains with other noise. Upstream asks `is not None` in its newer scripts."""
LINKS = ()
NEEDS = ()
GENERAL = True
UPSTREAM = "`is not None` in the newer scripts, `if args.seed` in the older ones"
EXAMPLE = """\
def log_validation(pipeline, args):
    generator = torch.Generator().manual_seed(args.seed) if args.seed else None
    return pipeline(generator=generator)
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The choices between a generator with a seed and none; in order where only the seed's absence decides. A seed that
    is 0, False or "" unless another is given says by it that there is none."""
    unsaid = _unsaid(tree)
    lines = {node.lineno: node for node in every(tree) if isinstance(node, ast.stmt)}
    found: dict[int, bool] = {}
    for line, statement in lines.items():
        if not hasattr(statement, "body"):
            for choice in every(statement):
                if (seed := _seed(choice)) and seed.rpartition(".")[2] not in unsaid:
                    found[line] = found.get(line, True) and text(choice.test) != seed  # type: ignore[attr-defined]
    return [Site(line, done) for line, done in sorted(found.items())]


def _unsaid(tree: ast.Module) -> set[str]:
    """The options and parameters whose default is 0, False or ""."""
    found = set()
    for node in every(tree):
        given: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.Call) and text(node.func).endswith(".add_argument"):
            flags = [str(each.value).lstrip("-") for each in node.args if isinstance(each, ast.Constant)]
            given = [(flag, each.value) for flag in flags for each in node.keywords if each.arg == "default"]
        elif isinstance(node, ast.arguments):
            given = [(each.arg, value) for each, value in defaults(node)]
        for name, value in given:
            if isinstance(value, ast.Constant) and value.value is not None and not value.value:
                found.add(name.replace("-", "_"))
    return found


def _seed(node: ast.AST) -> str:
    """The seed in `x.manual_seed(seed) if seed else None`, or with `seed is not None`; "" for other expressions."""
    if not isinstance(node, ast.IfExp) or text(node.orelse) != "None":
        return ""
    made = node.body
    if not isinstance(made, ast.Call) or not text(made.func).endswith(".manual_seed") or len(made.args) != 1:
        return ""
    seed = text(made.args[0])
    return seed if text(node.test) in (seed, f"{seed} is not None") else ""


def edits(block: Block, options: Options) -> Iterator[Splice]:
    def ask(code: str) -> str | None:
        choice = ast.parse(f"(\n{code}\n)", mode="eval").body  # it may go over lines
        if not isinstance(choice, ast.IfExp) or text(choice.test) != _seed(choice):
            return None
        lines = code.encode().splitlines(True)
        line, column = (choice.test.end_lineno or 0) - 2, choice.test.end_col_offset or 0
        lines[line] = lines[line][:column] + b" is not None" + lines[line][column:]
        return b"".join(lines).decode()

    for index, _ in block.wanted():
        made = block.with_expressions(block.statements[index], "IfExp", "manual_seed", ask)
        if made is not block.statements[index]:
            yield Splice(index, index + 1, [made])


def looks_like(tree: ast.Module, options: Options) -> list[Sign]:
    """Where a seed is set under an `if` that a seed of 0 does not pass."""
    return [
        Sign(node.lineno, f"a seed of 0 counts as none: ask `{text(node.test)} is not None`")
        for node in every(tree)
        if isinstance(node, ast.If) and isinstance(node.test, (ast.Name, ast.Attribute)) and _sets(node)
    ]


def _sets(node: ast.If) -> bool:
    given = text(node.test)
    calls = [each for line in node.body for each in every(line) if isinstance(each, ast.Call)]
    seeded = [call for call in calls if text(call.func).rpartition(".")[2] in ("manual_seed", "set_seed")]
    return any(call.args and text(call.args[0]) == given for call in seeded)
