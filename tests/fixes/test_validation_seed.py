"""validation-seed: draw with the seed that is given, 0 included."""

from __future__ import annotations

import ast

import pytest
from fixing import case, conflict, gone, satisfied, tables

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
    case(
        "every part on a line of its own",
        "generator = (\n\ttorch.Generator().manual_seed(args.seed)\n\tif args.seed\n\telse None\n)\n",
        "generator = (\n\ttorch.Generator().manual_seed(args.seed)\n\tif args.seed is not None\n\telse None\n)\n",
    ),
    case(
        "parentheses where there need be none",
        "def draw(é, seed):\n    é(g.manual_seed(seed) if (seed) else(None))\n",
        "def draw(é, seed):\n    é(g.manual_seed(seed) if (seed is not None) else(None))\n",
    ),
    case(
        "beside one that is in order",
        "a, b = g.manual_seed(s) if s else None, h.manual_seed(s) if s is not None else None\n",
        "a, b = (g.manual_seed(s) if s is not None else None), h.manual_seed(s) if s is not None else None\n",
    ),
    case(
        "asked for by a number",
        "s = a.get(0)\nb = g.manual_seed(s) if s else None\n",
        "s = a.get(0)\nb = g.manual_seed(s) if s is not None else None\n",
    ),
]

REFUSED = [
    satisfied("there", f"generator = {MADE} if args.seed is not None else None\n"),
    gone(
        "0 is the default, and says that there is none",
        f"parser.add_argument('--seed', type=int, default=0)\ngenerator = {MADE} if args.seed else None\n",
    ),
    gone("no seed is an empty one", "def draw(g, seed=''):\n    return g.manual_seed(seed) if seed else None\n"),
    gone("no seed is False", "def draw(g, *, seed=False):\n    return g.manual_seed(seed) if seed else None\n"),
    *(
        gone(f"0 is the default: {id}", f"{code}g = torch.Generator().manual_seed({seed}) if {seed} else None\n")
        for id, seed, code in (
            ("a field", "cfg.seed", "class Config:\n    seed: int = 0\n"),
            ("a field of its own", "cfg.seed", "class Config:\n    seed: int = field(default=0)\n"),
            ("click's", "seed", "option = click.option('--seed', default=0)\n"),
            ("another name", "args.s", "parser.add_argument('--val-seed', dest='s', default=0)\n"),
            ("set", "args.seed", "parser.set_defaults(seed=0)\n"),
            ("a key", "args.seed", "defaults = {'seed': 0}\n"),
            ("asked as a key", "args['seed']", "parser.add_argument('--seed', default=0)\n"),
            ("or", "args.seed", "args.seed = args.seed or 0\n"),
            ("the environment's", "SEED", "SEED = int(os.environ.get('SEED', 0))\n"),
            ("said", "s", "label = 'seed (0: random)'\n"),
        )
    ),
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
    gone("another one otherwise", f"generator = {MADE} if args.seed else A\n"),
    gone("it is told more", "generator = g.manual_seed(args.seed, 1) if args.seed else None\n"),
    gone("it is told nothing", "generator = g.manual_seed() if args.seed else None\n"),
    *(
        gone(f"0 is taken: {given}", f"seed = {given}\ng = torch.Generator().manual_seed(seed) if seed else None\n")
        for given in ("a or b or 0", "int(getattr(args, 'seed', 0))")
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("if args.seed:\n    set_seed(args.seed)\n", [1]),
        ("generator = None\nif seed:\n    generator = torch.Generator().manual_seed(seed)\n", [2]),
        ("if args.seed is not None:\n    set_seed(args.seed)\n", []),
        ("if args.draw:\n    set_seed(args.seed)\n", []),
        ("if args.draw:\n    set_seed(args.aaa)\n", []),
        ("if args.seed:\n    other(args.seed)\n", []),
        ("if mesh:\n    random.manual_seed(seed, mesh)\n", []),
        ("if args.seed:\n    set_seed(seed=args.seed)\n", [1]),
        ("if args.seed:\n    setup_random_seed(args.seed)\n", [1]),
        ("g = torch.Generator().manual_seed(s) if (s := args.seed) else None\n", [1]),
        ("if s := args.seed:\n    set_seed(s)\n", [1]),
        ("if (s := args.seed) is not None:\n    set_seed(s)\n", []),
        ("g = torch.Generator().manual_seed(d['seed']) if d.get('seed') else None\n", [1]),
        ("if getattr(a, 'seed', None):\n    set_seed(a.seed)\n", [1]),
        ("if getattr(a, 'seed', 0):\n    set_seed(a.seed)\n", []),
        ("parser.add_argument('--seed', default=0)\nif args.seed:\n    set_seed(args.seed)\n", []),
    ],
)
def test_the_same_fault_in_another_form(code: str, lines: list[int]) -> None:
    signs = fixes.load(NAME).looks_like(ast.parse(code), {})  # type: ignore[attr-defined]
    assert [sign.line for sign in signs] == lines
