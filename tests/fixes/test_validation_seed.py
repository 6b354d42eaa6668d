"""validation-seed: draw with the seed that is given, 0 included."""

from __future__ import annotations

import ast

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, satisfied

from kit import fixes

NAME = "validation-seed"
MADE = "torch.Generator(device=accelerator.device).manual_seed(args.seed)"

APPLIED = [
    case(
        "as in the script",
        f"def log_validation(args):\n    generator = {MADE} if args.seed else None\n",
        f"def log_validation(args):\n    generator = {MADE} if args.seed is not None else None\n",
    ),
    case(
        "an argument of a call, a comment",
        "image = pipe(x, generator=g.manual_seed(seed) if seed else None)  # draw\n",
        "image = pipe(x, generator=g.manual_seed(seed) if seed is not None else None)  # draw\n",
    ),
    case(
        "on lines of its own",
        "generator = (\n    torch.Generator().manual_seed(args.seed)\n    if args.seed else None\n)\n",
        "generator = (\n    torch.Generator().manual_seed(args.seed)\n    if args.seed is not None else None\n)\n",
    ),
]

REFUSED = [
    satisfied("there", f"generator = {MADE} if args.seed is not None else None\n"),
    gone("another question", f"generator = {MADE} if args.validation_prompt else None\n"),
    gone("another seed otherwise", f"generator = {MADE} if args.seed else torch.Generator()\n"),
    gone("asked the other way round", f"generator = None if args.seed is None else {MADE}\n"),
    gone("another use of a seed", "name = f'{args.seed}' if args.seed else None\n"),
    conflict(
        "twice",
        "expected 1 place to fix, found 2 (lines 1, 2)",
        1,
        f"a = {MADE} if args.seed else None\nb = {MADE} if args.seed else None\n",
    ),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("if args.seed:\n    set_seed(args.seed)\n", [1]),
        ("generator = None\nif seed:\n    generator = torch.Generator().manual_seed(seed)\n", [2]),
        ("if args.seed is not None:\n    set_seed(args.seed)\n", []),
        ("if args.draw:\n    set_seed(args.seed)\n", []),
    ],
)
def test_the_same_fault_in_another_form(code: str, lines: list[int]) -> None:
    signs = fixes.load(NAME).looks_like(ast.parse(code), {})  # type: ignore[attr-defined]
    assert [sign.line for sign in signs] == lines
