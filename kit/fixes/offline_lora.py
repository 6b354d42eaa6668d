"""Name the file when a LoRA that was written here is loaded again."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Sign, Site, Splice
from kit.fixes._ast import handed, same, text
from kit.fixes._positions import changed, end, parsed
from kit.fixes._roles import Script, read
from kit.fixes._roles._script import last
from kit.fixes._roles.holders import called_with
from kit.fixes._roles.hooks import load_hooks, save_hooks

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "load the LoRA written here by its file name"
WHY = """\
diffusers looks for a LoRA's file in the folder it is given, but not under HF_HUB_OFFLINE=1, not even in a local
folder: `ValueError: When using the offline mode, you must specify a weight_name`. A run without network cannot be
resumed, and one that has trained to its end fails when it loads its own result. The scripts write
pytorch_lora_weights.safetensors, the default of `save_lora_weights`; diffusers mended its loader later (#14204)."""
LINKS = (
    "https://github.com/huggingface/diffusers/issues/14195",
    "https://github.com/huggingface/diffusers/pull/14204",
)
NEEDS = ()
GENERAL = True
UPSTREAM = "mended in the library (#14204, merged 2026-07-16): not needed from diffusers 0.40 on"
EXAMPLE = """\
def main(args, pipeline, layers):
    pipeline.save_lora_weights(args.output_dir, layers)
    pipeline.load_lora_weights(args.output_dir)
"""

_LOADS = ("lora_state_dict", "load_lora_weights")
_NAME = "pytorch_lora_weights.safetensors"
_MOVES = ("rename", "renames", "replace", "move", "remove", "unlink")
_PLACES = 4  # of save_lora_weights, above that of the file's name
_SINCE = (0, 20)  # diffusers wrote another file before


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """The calls that load a LoRA from a folder the script wrote; in order where they name the file. None in a script
    that saves a LoRA under another name, by other means, not as safetensors, or for a diffusers that wrote another."""
    script = read(tree)
    if _otherwise(script) or _older(script):
        return []
    found: dict[int, list[Site]] = defaultdict(list)
    for call, statement in [each for name in _LOADS for each in script.calls[name]]:
        if _written_here(script, call, statement):
            found[statement.lineno].append(_site(call, statement))
    return [
        Site(line, all(each.done for each in its), refuses=next((each.refuses for each in its if each.refuses), ""))
        for line, its in sorted(found.items())
    ]


def _site(call: ast.Call, statement: ast.stmt) -> Site:
    done = any(each.arg == "weight_name" for each in call.keywords)
    more = not done and any(each.arg is None for each in call.keywords)
    why = "a file name may be among what is handed on there (`**`): name it by hand, or skip the fix"
    return Site(statement.lineno, done, refuses=why if more else "")


def _written_here(script: Script, call: ast.Call, statement: ast.stmt) -> bool:
    """Whether a call loads from the folder that a load hook is handed, or one where the script saves its result."""
    return [_holds(script, each) for each in _loaded(script, call, statement)] == [True]


def _loaded(script: Script, call: ast.Call, statement: ast.stmt) -> list[str]:
    """The folders that a call may load a LoRA from."""
    given = handed(call, "pretrained_model_name_or_path_or_dict") if isinstance(call.func, ast.Attribute) else []
    return [each for folder in given for each in _meant(script, folder, statement)]


def _meant(script: Script, folder: ast.expr, statement: ast.stmt) -> list[str]:
    """The folders that an expression may be: what its name is given where it is, once or by a choice, or handed."""
    if isinstance(folder, ast.IfExp):
        return [each for part in (folder.body, folder.orelse) for each in _meant(script, part, statement)]
    name = _path(folder)
    here = [line for line in script.inside(script.scopes(statement)[0]) if isinstance(line, ast.Assign)]
    given = [line.value for line in here if name in map(text, line.targets)]
    if not given and not _holds(script, name):
        given = [value for value, _ in called_with(script, script.function(statement), name)]
    plain = all(isinstance(each, (ast.Name, ast.Attribute)) for each in given)
    match given:
        case []:
            return [name]
        case [_] if _holds(script, name) or not plain:
            return [name]
    return list(dict.fromkeys(map(text, given)))


def _path(folder: ast.expr) -> str:
    """A folder as it is written, whether or not it is made a text or a path there."""
    match folder:
        case ast.Call(func=func, args=[inner], keywords=[]) if last(func) in ("str", "Path", "fspath"):
            return _path(inner)
        case ast.JoinedStr(values=[ast.FormattedValue(value=inner)]):
            return _path(inner)
    return text(folder)


def _holds(script: Script, folder: str) -> bool:
    """Whether the file is in a folder: one that a load hook is handed, unless the save hook writes something else, or
    one that the script saves its result to."""
    handed = {"input_dir", *(hook.folder for hook in load_hooks(script))}
    hooks = save_hooks(script)
    kept = not hooks or any("save_lora_weights(" in text(hook.function) for hook in hooks)
    return (folder in handed and kept) or folder in script.once(_saved)


def _saved(script: Script) -> set[str]:
    """The folders that the script saves a LoRA to, by itself or in a function that is handed them."""
    found = set()
    for call, line in script.calls["save_lora_weights"]:
        for folder in map(_path, _folder(call)):
            given = called_with(script, script.function(line), folder)
            found |= {folder, *(_path(value) for value, _ in given)}
    return found


def _saves(script: Script) -> list[ast.Call]:
    return [call for call, _ in script.calls["save_lora_weights"]]


def _folder(call: ast.Call) -> list[ast.expr]:
    return handed(call, "save_directory")


def _named(script: Script) -> bool:
    """Whether a LoRA is saved under another name, or in another form, which has one."""
    given = [keyword for call in _saves(script) for keyword in call.keywords]
    usual = {"weight_name": repr(_NAME), "safe_serialization": "True"}
    return any(not same(each.value, usual.get(each.arg or "", text(each.value))) for each in given)


def _otherwise(script: Script) -> bool:
    """Whether a LoRA is not saved as this fix knows it."""
    saves = _saves(script)
    other = any(word.endswith((".bin", ".pt", ".ckpt")) and "lora" in word for word in script.words)
    other |= any(len(call.args) > _PLACES for call in saves)
    other |= any(word.endswith("adapter_model.safetensors") for word in script.words)
    other |= any(_NAME in text(call) for name in _MOVES for call, _ in script.calls[name])
    return not saves or _named(script) or other or bool(script.calls["save_attn_procs"])


def _older(script: Script) -> bool:
    """Whether the script is for a diffusers before the file got its name."""
    asked = [call.args[0] for call, _ in script.calls["check_min_version"] if call.args]
    found = [re.match(r"(\d+)\.(\d+)", str(getattr(each, "value", ""))) for each in asked]
    return any(each and (int(each[1]), int(each[2])) < _SINCE for each in found)


def looks_like(tree: ast.Module, options: Options) -> Iterator[Sign]:
    """Where a LoRA is loaded from one of several folders, one of which the script wrote, or by no name from one where
    it has another."""
    script = read(tree)
    other = _otherwise(script)
    for name in _LOADS if _saves(script) and not _older(script) else ():
        for call, statement in script.calls[name]:
            folders = _loaded(script, call, statement)
            if _site(call, statement).done or not any(_holds(script, each) for each in folders):
                continue
            if _named(script):
                yield Sign(statement.lineno, "a LoRA saved under another name, loaded by none")
            elif len(folders) > 1 and not other:
                yield Sign(statement.lineno, "a LoRA loaded from this run's folder, or another, by no file name")


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        value = node.value if isinstance(node, (ast.Assign, ast.Expr, ast.AnnAssign)) else None
        if isinstance(value, ast.Call) and last(value.func) in _LOADS:
            yield Splice.instead(index, [block.with_argument(block.statements[index], f'weight_name="{_NAME}"')])
            continue

        def named(code: str, node: ast.stmt = node) -> str | None:
            call = parsed(code)
            if not isinstance(call, ast.Call) or last(call.func) not in _LOADS:
                return None
            if not _written_here(block.script, call, node) or _site(call, node).done:
                return None
            stop = max([*map(end, call.args), *map(end, call.keywords)])
            return changed(code, [(stop, stop, f', weight_name="{_NAME}"')])

        made = block.with_expressions(block.statements[index], "Call", "lora_", named)
        if made is not block.statements[index]:
            yield Splice.instead(index, [made])
