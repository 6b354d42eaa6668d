"""resume-order: what looks like it, where a checkpoint is loaded elsewhere."""

from __future__ import annotations

import ast

import pytest
from test_resume_order import NAME, fixed, script

from kit import fixes

METHOD = "class T:\n    def f(self, a):\n        a.load_state(x)\n        for b in self:\n            a.backward(b)\n"
HELPER = "def one(a, loader):\n    for b in loader:\n        a.backward(b)\n\n\ndef main(a):\n    a.load_state(x)\n"
BY_HAND = (
    "def main(a, loader):\n    a.load_state(x)\n    it = iter(loader)\n    while True:\n"
    "        b = next(it)\n        a.backward(b)\n"
)
STEP = (
    "def main(a, loader):\n    a.load_state(x)\n    for b in loader:\n        one(b)\n"
    + "def one(b):\n    a.backward(b)\n"
)
NESTED = "def main(a, loader):\n    def back():\n        a.load_state(x)\n    for b in loader:\n        a.backward(b)\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (METHOD, [4]),
        (METHOD.replace("in self", "in zeros"), [4]),
        (METHOD.replace("in self", "in train_batches"), []),
        (METHOD.replace("load_state", "load"), []),
        (METHOD + "skip_first_batches(a)\n", []),
        (METHOD + "StatefulDataLoader(a)\n", []),
        (HELPER, [2]),
        (STEP, [3]),
        (STEP.replace("a.load_state(x)\n", "pass\n"), []),
        (f"{HELPER}    for epoch in range(9):\n        one(a, loader)\n", [2]),
        (NESTED, [4]),
        (BY_HAND, [5]),
        (BY_HAND.replace("b = next(it)", "b = next(it), next(it)"), [5]),
        (BY_HAND.replace("    a.load_state(x)\n", "") + "def main(a):\n    a.load_state(x)\n    one(a)\n", [4]),
        (BY_HAND.replace("while True", "if begun"), []),
        (f"{BY_HAND}def show(it):\n    while True:\n        print(next(it))\n", [5]),
        (script(), []),
        (fixed(), []),
    ],
)
def test_training_where_the_checkpoint_is_loaded_elsewhere_looks_like_it(text: str, lines: list[int]) -> None:
    fix = fixes.load(NAME)
    assert [sign.line for sign in fix.looks_like(ast.parse(text), {})] == lines
