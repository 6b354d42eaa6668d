"""What the hooks that accelerate calls before it saves write themselves, on every process that saves."""

from __future__ import annotations

import ast
import re

from kit.fixes._alike import RANKS, sharing
from kit.fixes._ast import every, text
from kit.fixes._gate import gathers, leaves_others
from kit.fixes._roles import Script
from kit.fixes._roles import processes as roles
from kit.fixes._roles._script import last, mode, own, shown
from kit.fixes._roles.holders import accelerator
from kit.fixes._roles.hooks import Hook, save_hooks, unknown_save_hook

# What writes, removes, makes or sends, by the last part of its name.
_WORK = re.compile(
    r"(up|_?save|dump|write|copy)\w*|to_(csv|json|parquet)|push_to_hub|imwrite|move|rename|replace|symlink|touch|rmtree"
    r"|unlink|remove|rmdir|makedirs|mkdir|open|system|Popen|check_call|check_output|post|put|send\w*"
)


def hook_writes(script: Script) -> tuple[dict[ast.stmt, str], str]:
    """What save hooks write on whatever process saves: the statements, each with the test for the main one; and why one
    of them cannot be put under that ("": all can)."""
    return script.once(_hook_writes)


def _hook_writes(script: Script) -> tuple[dict[ast.stmt, str], str]:
    found: dict[ast.stmt, str] = {}
    if unknown := unknown_save_hook(script):
        return {}, f"the hook `{text(unknown)}` is no function of this script, and may write on every process: name one"
    for hook in save_hooks(script):
        lines, why = _of_hook(script, hook)
        if why:
            return {}, f"the hook `{hook.function.name}` {why}"
        found |= lines
    return found, ""


def _of_hook(script: Script, hook: Hook) -> tuple[dict[ast.stmt, str], str]:
    """The same of one hook."""
    found: dict[ast.stmt, str] = {}
    lines = list(script.inside(hook.function))
    if any(RANKS.search(text(node)) for line in lines for node in own(line) if isinstance(node, ast.JoinedStr)):
        return {}, ""  # to a file of each process
    left = [line.lineno for line in hook.function.body if leaves_others(script, line)]
    inside: list[ast.stmt] = []
    for line in lines:
        if line in inside:
            continue
        by_one = roles.alone(script, line) or bool(left and left[0] < line.lineno)
        calls = [
            node
            for node in own(line)
            if isinstance(node, ast.Call) and (_writes(script, node, ()) or _told(script, line, node, hook.folder))
        ]
        if (calls or by_one) and (call := gathers(script, line)):
            return {}, f"calls {shown(call)}, which every process must, for one alone"
        if not calls or by_one:
            continue
        name, why = accelerator(script, line)
        inside += script.inside(line) if _writing(line) else ()
        whole = _writing(line) or (isinstance(line, ast.Expr) and line.value is calls[0])
        if why or not whole or sharing(script.block(line)):
            way = "put that under a test for the main process first"
            return {}, f"writes on every process that saves ({shown(calls[0])}): {way}"
        found[line] = f"{name}.is_main_process"
    return found, ""


def _told(script: Script, line: ast.stmt, call: ast.Call, folder: str) -> bool:
    """Whether a call that is a statement by itself, of what is not in the script, is handed the folder to save in."""
    given = [*call.args, *(each.value for each in call.keywords)]
    handed = any(isinstance(part, ast.Name) and part.id == folder for node in given for part in every(node))
    outside = not script.called(call) and not roles.is_harmless(script, call)
    return isinstance(line, ast.Expr) and line.value is call and handed and outside


def _writes(script: Script, call: ast.Call, within: tuple[ast.AST, ...]) -> bool:
    """Whether a call writes a model, by itself or in a function of the script that does so for whoever calls."""
    made = script.called(call)
    if not made or made in within:
        how = mode(script, call)
        reads = how and not set("wax+?") & set(how)
        return bool(_WORK.fullmatch(last(call.func))) and not roles.is_harmless(script, call) and not reads
    return any(
        isinstance(node, ast.Call) and not roles.alone(script, line) and _writes(script, node, (*within, made))
        for line in script.inside(made)
        for node in own(line)
    )


def _writing(line: ast.stmt) -> bool:
    """Whether a statement is a `with` of one file, and all of it can be left to one process: nothing in it is given a
    name, popped or left."""
    if (
        not isinstance(line, ast.With)
        or len(line.items) != 1
        or last(getattr(line.items[0].context_expr, "func", line)) != "open"
    ):
        return False
    nodes = [node for inner in line.body for node in every(inner)]
    popped = any(isinstance(node, ast.Call) and last(node.func) == "pop" for node in nodes)
    plain = all(isinstance(node, (ast.Expr, ast.If, ast.For)) for node in nodes if isinstance(node, ast.stmt))
    return plain and not popped
