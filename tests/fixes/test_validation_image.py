"""validation-image: before and after, and what it refuses."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, run, satisfied

NAME = "validation-image"

SCRIPT = """\
import os


def parse_args(args):
    if args.validation_prompt is not None:
        assert {asked} and os.path.exists(args.validation_image)
    return args
"""
BEFORE = SCRIPT.format(asked="args.validation_image is None")
AFTER = SCRIPT.format(asked="args.validation_image is not None")

APPLIED = [case("as in the script", BEFORE, AFTER)]

REFUSED = [
    satisfied("there", AFTER),
    gone("elsewhere", BEFORE.replace("parse_args", "main")),
    gone("none is asked for", BEFORE.replace("args.validation_image is None and ", "")),
    conflict("no os", "`os` is not bound", 3, BEFORE.replace("import os\n\n\n", "")),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)


@pytest.mark.parametrize("image", [__file__, "nowhere.png", None])
def test_only_an_image_that_is_there_will_do(image: str | None) -> None:
    class Args:
        validation_prompt, validation_image = "a cat", image

    with pytest.raises((AssertionError, TypeError)):
        run(BEFORE)["parse_args"](Args)
    if image == __file__:
        assert run(AFTER)["parse_args"](Args) is Args
    else:
        with pytest.raises(AssertionError):
            run(AFTER)["parse_args"](Args)
