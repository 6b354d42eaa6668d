"""Let a run with condition images be validated: the check of --validation_image asks for the contrary."""

from kit.fixes._table import Swap, table

TITLE = "ask for a validation image that is there"
WHY = """\
`assert args.validation_image is None and os.path.exists(args.validation_image)` can hold for no run: with an image it
ends in AssertionError, without one in `TypeError: stat: path should be string, bytes, os.PathLike or integer, not
NoneType`. So no run with condition images can be validated. What is meant is an image, and that it is there."""
LINKS = ()
NEEDS = ("args", "os")

sites, edits = table(
    Swap(
        "parse_args",
        "assert args.validation_image is",
        "args.validation_image is None",
        "args.validation_image is not None",
    )
)
