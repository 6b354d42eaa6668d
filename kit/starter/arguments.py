"""The options of a script, read from its own argparse: flags, kinds, defaults, help. Nothing of it is run."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kit.fixes._ast import parse

LEFT_OUT = {"local_rank", "hub_token"}  # the launcher's own, and what no command line should hold
# Settings of kit's launch scripts by the flag they fill, where they have a name or a kind of their own.
KNOWN: dict[str, dict[str, Any]] = {
    "pretrained_model_name_or_path": {"name": "model_name", "kind": "model"},
    "train_batch_size": {"name": "batch_size", "kind": "whole"},
    "dataset_name": {"kind": "dataset"},
    "instance_data_dir": {"kind": "images"},
    "output_dir": {"kind": "output"},
    "mixed_precision": {"kind": "precision", "default": "bf16"},
    "resume_from_checkpoint": {"kind": "resume"},
    "resolution": {"kind": "whole", "multiple": 16},
    "seed": {"kind": "count"},
    "checkpoints_total_limit": {"kind": "whole"},
    "max_train_steps": {"kind": "whole"},
}
ROLES = {
    "batch": "batch_size",
    "accumulation": "gradient_accumulation_steps",
    "precision": "mixed_precision",
    "output": "output_dir",
    "captions": "caption_column",
    "clipping": "max_grad_norm",
    "prompt": "instance_prompt",
    "resolution": "resolution",
    "cached": "cache_latents",
}
NEEDED = ("batch", "accumulation", "precision", "output")


@dataclass(frozen=True)
class Argument:
    """An option of a script: its flag without dashes, what argparse makes of it and its help in one line."""

    flag: str
    kind: str  # int, float, str, bool, or switch
    default: Any
    choices: tuple[str, ...]
    required: bool
    help: str


def read(content: bytes, name: str) -> list[Argument]:
    """The options that a script declares with `add_argument`, in its order; the first of a name counts. Raises KitError
    where the script is not Python."""
    found: dict[str, Argument] = {}
    for node in ast.walk(parse(content, name)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            for argument in _argument(node):
                found.setdefault(argument.flag, argument)
    return sorted(found.values(), key=lambda each: each.flag not in KNOWN)


def _argument(node: ast.Call) -> Iterator[Argument]:
    words = {word.arg: word.value for word in node.keywords if word.arg}
    flags = [_value(flag) for flag in node.args]
    flag = next((flag[2:] for flag in flags if isinstance(flag, str) and flag.startswith("--")), "")
    action, kind = _value(words.get("action")), words.get("type")
    if flag:
        yield Argument(
            flag,
            "switch" if action == "store_true" else kind.id if isinstance(kind, ast.Name) else "str",
            _value(words.get("default")),
            tuple(map(str, _value(words.get("choices")) or ())),
            bool(_value(words.get("required"))),
            " ".join(str(_value(words.get("help")) or "").split()),
        )


def _value(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node else None
    except ValueError:
        return None


def settings(arguments: list[Argument], output: str) -> list[dict[str, Any]]:
    """The rows of a launch table, as overlays/launcher/options.py reads them: the script's own flags, defaults, help.
    Options that argparse reads wrongly (``type=bool``) or that are the launcher's own are left out."""
    rows = []
    for each in arguments:
        if each.flag in LEFT_OUT or each.kind == "bool" or not each.flag.isidentifier():
            continue
        row = {"name": each.flag, "default": _shown(each), "kind": _kind(each), "flags": [each.flag]}
        row["meaning"] = _first_sentence(each.help) or f"--{each.flag} of the script"
        if each.choices:
            row["pattern"] = "|".join(each.choices)
        row |= KNOWN.get(each.flag, {})
        if row["kind"] == "precision":
            row.pop("pattern", None)
        if each.flag == "output_dir":
            row["default"] = output
        rows.append(row)
    return rows


def roles(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Which of the settings mean what the launcher asks for."""
    names = {row["name"] for row in rows}
    return {role: name for role, name in ROLES.items() if name in names}


def _shown(each: Argument) -> str:
    if each.kind == "switch":
        return "true" if each.default is True else "false"
    return "" if each.default is None else str(each.default)


def _kind(each: Argument) -> str:
    if each.kind == "switch":
        return "switch"
    if each.kind == "int" and not (isinstance(each.default, int) and each.default < 0):
        return "count"
    if each.kind == "float" and not (isinstance(each.default, float) and each.default < 0):
        return "number"
    return "text"


def _first_sentence(text: str) -> str:
    first = text.partition(". ")[0].rstrip(". ")
    word = first.partition(" ")[0]
    plain = first[:1].lower() + first[1:] if word[1:].islower() or len(word) == 1 else first  # VAE, LoRA stay
    return textwrap.shorten(plain, 120, placeholder=" …")
