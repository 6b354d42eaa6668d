"""Take a seed of 0 for a seed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import defaults, every, text
from kit.fixes._positions import changed, end, parsed
from kit.fixes._roles._script import last

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
                if (seed := _seed(choice)) and not _is_unsaid(seed, unsaid):
                    found[line] = found.get(line, True) and text(choice.test) != seed  # type: ignore[attr-defined]
    return [Site(line, done) for line, done in sorted(found.items())]


def _unsaid(tree: ast.Module) -> set[str]:
    """The options, fields and keys whose default is 0, False or ""; "*" where a text says that 0 is none."""
    found = set()
    for node in every(tree):
        given: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.Call) and text(node.func).endswith((".add_argument", ".option")):
            flags = [str(each.value).lstrip("-") for each in node.args if isinstance(each, ast.Constant)]
            flags += [str(getattr(each.value, "value", "")) for each in node.keywords if each.arg == "dest"]
            given = [(flag, each.value) for flag in flags for each in node.keywords if each.arg == "default"]
        elif isinstance(node, ast.Call) and text(node.func).endswith("set_defaults"):
            given = [(each.arg or "", each.value) for each in node.keywords]
        elif isinstance(node, ast.Dict):
            given = [(str(getattr(key, "value", "")), value) for key, value in zip(node.keys, node.values, strict=True)]
        elif isinstance(node, ast.ClassDef):
            given = [(text(line.target), _default(line.value)) for line in node.body if isinstance(line, ast.AnnAssign)]
        elif isinstance(node, ast.Assign):
            given = [(text(each).rpartition(".")[2], _otherwise(node.value)) for each in node.targets]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _SAYS.search(node.value):
            found.add("*")
        elif isinstance(node, ast.arguments):
            given = [(each.arg, value) for each, value in defaults(node)]
        for name, value in given:
            if isinstance(value, ast.Constant) and value.value in (0, "", "0"):
                found.add(name.replace("-", "_"))
    return found


_SAYS = re.compile(r"\b0 ?(=|:|is|means|for) ?(a )?(random|none|no seed|new)", re.IGNORECASE)


def _default(value: ast.expr | None) -> ast.expr | None:
    """The default of a class's field: as it is, or in `field(default=…)`."""
    named = value.keywords if isinstance(value, ast.Call) else []
    return next((each.value for each in named if each.arg == "default"), value)


def _otherwise(value: ast.expr) -> ast.expr | None:
    """What a name is given where nothing else is: in `x or 0`, or in a number made of `get("x", 0)`."""
    match value:
        case ast.Call(func=ast.Name(id="int"), args=[number]):
            return _otherwise(number)
        case ast.BoolOp(op=ast.Or(), values=[*_, default]):
            return default
        case ast.Call(func=func, args=[_, *_, default]) if last(func) in ("get", "getenv", "getattr"):
            return default
    return None


def _is_unsaid(seed: str, unsaid: set[str]) -> bool:
    """Whether a seed (`seed`, `args.seed`, `args['seed']`) has a default that says that there is none."""
    return "*" in unsaid or re.split(r"[.\[]", seed)[-1].strip("]'\"") in unsaid


def _seed(node: ast.AST) -> str:
    """The seed in `x.manual_seed(seed) if seed else None`, or with `seed is not None`; "" for other expressions."""
    if not isinstance(node, ast.IfExp) or text(node.orelse) != "None":
        return ""
    match node.body:
        case ast.Call(func=ast.Attribute(attr="manual_seed"), args=[given]):
            seed = text(given)
            return seed if text(node.test) in (seed, f"{seed} is not None") else ""
    return ""


def edits(block: Block, options: Options) -> Iterator[Splice]:
    def ask(code: str) -> str | None:
        choice = parsed(code)
        if not isinstance(choice, ast.IfExp) or text(choice.test) != _seed(choice):
            return None
        stop = end(choice.test)
        return changed(code, [(stop, stop, " is not None")])

    for index, _ in block.wanted():
        made = block.with_expressions(block.statements[index], "IfExp", "manual_seed", ask)
        if made is not block.statements[index]:
            yield Splice.instead(index, [made])


def looks_like(tree: ast.Module, options: Options) -> list[Sign]:
    """Where something is seeded, or not, by whether a seed is true, in a form that is not known; and where another
    takes the place of a seed that is not."""
    unsaid = _unsaid(tree)
    found = {}
    for node in every(tree):
        for seed in _asked(node):
            if not any(_is_unsaid(form, unsaid) for form in _forms(seed)):
                found[node.lineno] = f"a seed of 0 counts as none: ask `{text(seed)} is not None`"  # type: ignore[attr-defined]
    return [Sign(line, what) for line, what in sorted(found.items())]


def _asked(node: ast.AST) -> list[ast.expr]:
    """The seeds that an `if`, or a choice, asks for as if they were true or false."""
    if isinstance(node, (ast.If, ast.IfExp)) and not _seed(node):
        branches = [*node.body, *node.orelse] if isinstance(node, ast.If) else [node.body, node.orelse]
        given = {text(part) for each in branches for call in _seeding(each) for part in _parts(call)}
        leaves = (
            isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return) and isinstance(node.test, ast.UnaryOp)
        )
        made = isinstance(node, ast.IfExp) and text(node.orelse) == "None"
        read = {text(part) for part in every(node.body)} if made else set()  # type: ignore[arg-type]
        asked = _truths(node.test)
        return [each for each in asked if _forms(each) & given or (_is_seed(each) and (leaves or _forms(each) & read))]
    if isinstance(node, ast.Assign):
        return [each for each in _replaced(node.value) if _is_seed(each)]
    if isinstance(node, ast.Call) and _seeds(node):
        return [each for given in node.args for part in every(given) for each in _replaced(part)]
    return []


def _replaced(value: ast.AST) -> list[ast.expr]:
    """What another takes the place of where it is not true: `x` in `x or y`, but for `x or 0`."""
    match value:
        case ast.BoolOp(op=ast.Or(), values=[first, *_, other]) if text(other) != "0":
            return [first]
    return []


def _is_seed(node: ast.expr) -> bool:
    """Whether an expression is a seed, by its name."""
    return "seed" in last(node).lower()


def _truths(test: ast.expr) -> list[ast.expr]:
    """What a test takes for true or false: names, attributes, items, what `get` gives."""
    match test:
        case ast.BoolOp(values=values):
            return [each for value in values for each in _truths(value)]
        case ast.UnaryOp(op=ast.Not(), operand=inner) | ast.Call(func=ast.Name(id="bool"), args=[inner]):
            return _truths(inner)
        case ast.Call(func=func, args=args) if last(func) in ("get", "getattr"):
            return [test] if not {"0", "''"} & {*map(text, args)} else []
        case ast.Name() | ast.Attribute() | ast.Subscript() | ast.NamedExpr():
            return [test]
    return []


def _forms(asked: ast.expr) -> set[str]:
    """How what is asked for may be written elsewhere: `d.get("seed")` as `d["seed"]`, `s := a.seed` as either."""
    match asked:
        case ast.NamedExpr(target=target, value=value):
            return {text(target), *_forms(value)}
        case ast.Call(func=ast.Attribute(attr="get", value=owner), args=[key, *_]):
            return {text(asked), f"{text(owner)}[{text(key)}]"}
        case ast.Call(func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(name)), *_]):
            return {text(asked), f"{text(owner)}.{name}"}
    return {text(asked)}


def _seeding(node: ast.AST) -> list[ast.Call]:
    return [each for each in every(node) if isinstance(each, ast.Call) and _seeds(each)]


def _parts(call: ast.Call) -> list[ast.AST]:
    """What a call is given for a seed, with all that is in it."""
    named = [each.value for each in call.keywords if "seed" in (each.arg or "")]
    return [part for each in (*call.args[:1], *named) for part in every(each)]


def _seeds(call: ast.Call) -> bool:
    """Whether a call sets a seed, or makes something of one."""
    plain = text(call.func) in ("random.seed", "np.random.seed", "numpy.random.seed")
    return plain or _SEEDING.fullmatch(last(call.func)) is not None


_SEEDING = re.compile(
    r"manual_seed(_all)?|seed_(everything|all|torch)|(set|init|fix|setup)_(\w+_)?seeds?|RandomState|default_rng|Random|PRNGKey"
)
