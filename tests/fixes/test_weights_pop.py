"""weights-pop: guard weights.pop() against an empty list."""

from __future__ import annotations

import ast

import pytest
from fixing import case, conflict, gone, run, satisfied, tables, unlike

from kit import fixes
from kit.codemod import Outcome

NAME = "weights-pop"

APPLIED = [
    case(
        "in the save hook",
        """
        def save_model_hook(models, weights, output_dir):
            for model in models:
                model.save(output_dir)

                # make sure to pop weight so that corresponding model is not saved again
                weights.pop()
        """,
        """
        def save_model_hook(models, weights, output_dir):
            for model in models:
                model.save(output_dir)

                # make sure to pop weight so that corresponding model is not saved again
                if weights:
                    weights.pop()
        """,
    ),
    case(
        "spacing and a comment at the end of the line stay",
        """
        def hook(models, weights):
            while models:
                models.pop()
                weights.pop( )  # the last
            return models
        """,
        """
        def hook(models, weights):
            while models:
                models.pop()
                if weights:
                    weights.pop( )  # the last
            return models
        """,
    ),
    case(
        "an else branch is not guarded by its if",
        """
        async def hook(weights):
            if weights:
                pass
            else:
                weights.pop()
        """,
        """
        async def hook(weights):
            if weights:
                pass
            else:
                if weights:
                    weights.pop()
        """,
    ),
    case(
        "a guard outside the function does not count",
        """
        def main(weights):
            if weights:
                def hook(models, weights):
                    weights.pop()
        """,
        """
        def main(weights):
            if weights:
                def hook(models, weights):
                    if weights:
                        weights.pop()
        """,
    ),
    case(
        "two, where two are expected",
        """
        class Hooks:
            @staticmethod
            def save_hook(weights):
                weights.pop()
                weights.pop()
        """,
        """
        class Hooks:
            @staticmethod
            def save_hook(weights):
                if weights:
                    weights.pop()
                if weights:
                    weights.pop()
        """,
        count=2,
    ),
    case(
        "in try, finally, with and match",
        """
        def hook(weights, kind):
            try:
                weights.pop()
            finally:
                with suppress(KeyError):
                    weights.pop()
            match kind:
                case 1:
                    weights.pop()
        """,
        """
        def hook(weights, kind):
            try:
                if weights:
                    weights.pop()
            finally:
                with suppress(KeyError):
                    if weights:
                        weights.pop()
            match kind:
                case 1:
                    if weights:
                        weights.pop()
        """,
        count=3,
    ),
    case(
        "below a hook whose weights are something else",
        """
        def save_hook(models, weights):
            weights = dict(weights)
        def other_hook(models, weights):
            weights.pop()
        """,
        """
        def save_hook(models, weights):
            weights = dict(weights)
        def other_hook(models, weights):
            if weights:
                weights.pop()
        """,
    ),
]

GUARD = "if weights:\n            "
CALLED = "class Save:\n    def __call__(self, models, weights, folder):\n        {}weights.pop()\n"
APPLIED += [
    unlike(
        f"an object that is called: {given}",
        f"{CALLED.format('')}{given}\n",
        f"{CALLED.format(GUARD)}{given}\n",
    )
    for given in (
        "accelerator.register_save_state_pre_hook(Save())",
        "save = Save()\naccelerator.register_save_state_pre_hook(save)",
        "self.save = Save()\nself.accelerator.register_save_state_pre_hook(self.save)",
    )
]

REFUSED = [
    *(
        conflict(
            f"popped where there are none, in {id}",
            "several statements share the line",
            3,
            f"def hook(models, weights):\n    {above}if not weights: weights.pop(); {leaves}\n",
        )
        for id, above, leaves in (
            ("a loop", "for model in models:\n        ", "break"),
            ("a block", "with models:\n        ", "return"),
            ("the function", "count = len(models)\n    ", "return"),
        )
    ),
    conflict(
        "left after",
        "found 2 (lines 3, 6)",
        3,
        "def hook(models, weights):\n    for model in models:\n        weights.pop()\n"
        "        if not weights:\n            break\n    weights.pop()\n    if not weights:\n"
        "        return\n",
    ),
    satisfied("guarded", "def hook(weights):\n    if weights:\n        weights.pop()\n"),
    satisfied("guarded by length", "def hook(weights):\n    if len(weights)>0:\n        weights.pop()\n"),
    satisfied("guarded and more", "def hook(weights, a):\n    if a and weights:\n        weights.pop()\n"),
    satisfied("in a loop that ends", "def hook(weights):\n    while len(weights) > 0:\n        weights.pop()\n"),
    satisfied("as often as", "def hook(weights):\n    for _ in range(len(weights)):\n        weights.pop()\n"),
    satisfied("by its number", "def hook(weights, i):\n    if i < len(weights):\n        weights.pop()\n"),
    satisfied("on one line", "def hook(weights):\n    if weights: weights.pop()\n"),
    satisfied("left before", "def hook(weights):\n    if not weights:\n        return\n    weights.pop()\n"),
    satisfied(
        "left before, with a word",
        "def hook(weights):\n    if not weights:\n        log()\n        return\n    weights.pop()\n",
    ),
    satisfied(
        "passed by",
        "def hook(models, weights):\n    for model in models:\n        if not weights:\n"
        "            continue\n        save(model)\n        weights.pop()\n",
    ),
    satisfied("asked twice", "def hook(weights):\n    if len(weights) > 0 == done:\n        weights.pop()\n"),
    *(
        satisfied(f"caught: {head}", f"def hook(weights):\n    {head}\n        weights.pop()\n{tail}")
        for head, tail in (
            ("try:", "    except Exception:\n        pass\n"),
            ("try:", "    except:\n        pass\n"),
            ("with suppress(IndexError):", ""),
            ("if accelerator.distributed_type != 'DEEPSPEED':", ""),
        )
    ),
    satisfied("caught", "def hook(weights):\n    try:\n        weights.pop()\n    except IndexError:\n        pass\n"),
    gone("other lists", "def hook(models, weights):\n    models.pop()\n    self.weights.pop()\n"),
    gone("a method of that name", "def hook(weights):\n    return weights.popitem()\n"),
    gone("no hook", "def merge(models, weights):\n    weights.pop()\n"),
    gone("by its place", "def hook(models, weights):\n    weights.pop(0)\n"),
    gone("something else by then", "def hook(models, weights):\n    weights = dict(weights)\n    weights.pop()\n"),
    gone("a hook that loads", "def load_hook(models, weights):\n    weights.pop()\n"),
    gone("another list", "def hook(models, weights):\n    xs = weights_of(models)\n    xs.pop()\n"),
    gone("not its own", "def hook(models):\n    weights.pop()\n"),
    conflict(
        "an `or` is no guard",
        "found 2 (lines 3, 4)",
        3,
        "def hook(weights, a):\n    if a or weights:\n        weights.pop()\n    weights.pop()\n",
    ),
    conflict(
        "two hooks",
        "expected 1 place to fix, found 2 (lines 2, 4)",
        2,
        "def hook(weights):\n    weights.pop()\ndef hook_2(weights):\n    weights.pop()\n",
    ),
    conflict(
        "one where two are expected",
        "expected 2 places to fix, found 1 (lines 2)",
        2,
        "def hook(weights):\n    weights.pop()\n",
        count=2,
    ),
    conflict("its result is used", "what is popped is used", 2, "def hook(weights):\n    last = weights.pop()\n"),
    conflict("in an expression", "what is popped is used", 2, "def hook(weights):\n    return save(weights.pop())\n"),
    conflict("behind a semicolon", "several statements share", 2, "def hook(weights):\n    print(1); weights.pop()\n"),
    conflict(
        "in a loop of one line",
        "it stands on the line of what it is in",
        2,
        "def hook(models, weights):\n    for _ in models: weights.pop()\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def test_an_empty_list_ends_the_hook_before_and_not_after() -> None:
    given = APPLIED[1].values[0]
    with pytest.raises(IndexError, match="pop from empty list"):
        run(given.before)["hook"]([1], [])
    assert run(given.after)["hook"]([1], []) == []
    weights = [1, 2]
    run(given.after)["hook"]([1], weights)
    assert weights == [1]


@pytest.mark.parametrize(("code", "lines"), [("weights.pop()", []), ("weights.pop(0)", [2]), ("weights.pop(-1)", [2])])
def test_what_is_popped_by_its_place_looks_like_it(code: str, lines: list[int]) -> None:
    tree = ast.parse(f"def hook(weights):\n    {code}\n")
    assert [sign.line for sign in fixes.load(NAME).looks_like(tree, {})] == lines  # type: ignore[attr-defined]


def test_outcomes_are_told_apart() -> None:
    assert {param.values[0].outcome for param in REFUSED} == {Outcome.satisfied, Outcome.gone, Outcome.conflict}
