"""The judge of the fixes about what is trained on: as `judge_scripts.py`, whose words and rules hold.

A fix that moves or rewrites statements is taken out by writing them as they were, by text: upstream's is known.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable

import judge_words

# sample-caches: nothing that a loop over batches, in no class, reads is indexed by the number of the batch.

BATCH = r"batch\['indices'\]"
UNDONE = [  # in lines as `ast` writes them
    (rf"cache_samples\((\w+), {BATCH}, (.*\.latent_dist)\.parameters\)", r"\1.append(\2)"),
    (rf"cache_samples\((\w+), {BATCH}, (.*?)(?:, dim=\d)?\)$", r"\1.append(\2)"),
    (
        rf"(\w+)\.update\(\(\(index, (\w+)\[i::len\({BATCH}\)\]\) for i, index in enumerate\({BATCH}\)\)\)",
        r"\1.append(\2)",
    ),
    (r"for cache, values in zip\((\w+), (.*)\):\n +cache\.append\(values\)", r"\1.append(\2)"),
    (rf"DiagonalGaussianDistribution\(cached_batch\((\w+), {BATCH}\)\)", r"\1[step]"),
    (rf"cached_batch\((\w+), {BATCH}(?:, dim=\d)?\)", r"\1[step]"),
    (rf"cached_captions\((\w+), \w+, {BATCH}\)", r"\1[step]"),
    (r"\(cache\[step\] for cache in (\w+)\)", r"\1[step]"),
    (
        rf"(\w+) = \[(\w+)\[index\] for index in {BATCH}\]\n +\1 = \[row for rows in zip\(\*\1\) for row in rows\]",
        r"\1 = \2[step]",
    ),
    (rf"(\w+)\.expand\(len\({BATCH}\), -1, -1\)", r"\1"),
    (r"\n +text_ids = text_ids\[0\]", ""),
    (r"\n +\w+\['indices'\] = \[example\['index'\] for example in \w+\]", ""),
    (r"\n +\w+\['index'\] = index", ""),
    (r"from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution\n", ""),
]
HELPERS = ("cache_samples", "cached_batch", "cached_captions")


def caches_lacking(tree: ast.Module) -> list[int]:
    lists = set(re.findall(r"(\w+) = \[\]", ast.unparse(tree))) | set(
        re.findall(r"(\w*cache\w*) = ", ast.unparse(tree))
    )
    lines = set()
    outside = [node for node in tree.body if not isinstance(node, ast.ClassDef)]
    for loop in [inner for node in outside for inner in ast.walk(node)]:
        line = judge_words.short(ast.unparse(loop)) if isinstance(loop, ast.For) else ""
        found = re.match(r"for \(?(\w+), \w+\)? in enumerate\(\w+\):", line)
        for node in ast.walk(loop) if found else ():
            if isinstance(node, ast.Subscript) and ast.unparse(node.slice) == found[1]:
                lines |= {node.lineno} if set(re.findall(r"\w+", ast.unparse(node.value))) & lists else set()
    return sorted(lines)


def caches_stripped(tree: ast.Module) -> ast.Module:
    tree.body = [node for node in tree.body if getattr(node, "name", "") not in HELPERS]
    text = ast.unparse(tree).replace("has_step_indexed_caches = ", "")
    text = text.replace("shuffle_batches_each_epoch=not has_step_indexed_caches", "shuffle_batches_each_epoch=True")
    lists = set(
        re.findall(
            r"cached_(?:batch|captions)\((\w+),|zip\((\w+), |(\w+)\[index\] for index|for cache in (\w+)\)", text
        )
    )
    names = "|".join({name for found in lists for name in found if name} | {r"\w*cache\w*"})
    text = re.sub(rf"({names}) = (?:\{{\}}|\(\{{\}}(?:, \{{\}})*\))$", r"\1 = []", text, flags=re.MULTILINE)
    for pattern, put in UNDONE:
        text = re.sub(pattern, put, text, flags=re.MULTILINE)
    return ast.parse(text)


# rank-noise: below the last `accelerator.prepare` above the loop that trains, of a script that seeds all alike.

APART = re.compile(
    r"\n +if [\w.]+ is not None and \w+\.process_index > 0:\n +torch\.manual_seed\([\w.]+ \+ \w+\.process_index\)"
)


def noise_lacking(tree: ast.Module) -> list[int]:
    imported = any(
        "set_seed" in ast.unparse(n) and "accelerate" in ast.unparse(n)
        for n in tree.body
        if isinstance(n, ast.ImportFrom)
    )
    lines = []
    for function in tree.body if imported else ():
        text = ast.unparse(function) if isinstance(function, ast.FunctionDef) else ""
        if re.search(r"set_seed\([\w.]+\)", text) and ".prepare(" in text and ".backward(" in text:
            loops = [n for n in ast.walk(function) if isinstance(n, ast.For) and ".backward(" in ast.unparse(n)]
            over = {word for loop in loops for word in re.findall(r"\w+", ast.unparse(loop.iter))}
            prepared = [at for at, node in enumerate(function.body) if prepares(node, over)]
            if not prepared or not APART.search(
                "\n " + ast.unparse(function.body[prepared[-1] + 1]).replace("\n", "\n ")
            ):
                lines.append(function.lineno)
    return lines


def prepares(node: ast.stmt, over: set[str]) -> bool:
    """Whether a statement prepares what trains: an optimizer, or what the loop that trains goes over."""
    if isinstance(node, (ast.For, ast.FunctionDef)):
        return False
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)]
    given = [ast.unparse(part) for each in calls if ast.unparse(each.func).endswith(".prepare") for part in each.args]
    return any(word in over or re.search("optimizers?$", word) for part in given for word in re.findall(r"\w+", part))


def noise_stripped(tree: ast.Module) -> ast.Module:
    return ast.parse(APART.sub("", ast.unparse(tree)))


# prompt-repeat: no branch of a loop that trains repeats what it gave the same name for the last batch.

GROWS = re.compile(r"(\w+) = (?:\1\.repeat\w*\(|\[(\w+) for \2 in \1 for )")
KEPT = re.compile(r"\n +if not [\w. ]+:(?:\n +static_(\w+) = \1(?=\n))+")


def repeat_lacking(tree: ast.Module) -> list[int]:
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For) and ".backward(" in ast.unparse(node)]
    branches = [node.orelse for loop in loops for node in ast.walk(loop) if isinstance(node, ast.If)]
    return sorted({node.lineno for block in branches for node in block if GROWS.match(ast.unparse(node))})


def repeat_stripped(tree: ast.Module) -> ast.Module:
    """Where all that a function keeps is what it repeats; upstream's own is kept elsewhere."""
    text = ast.unparse(tree)
    return ast.parse(KEPT.sub("", text).replace(" static_", " ") if KEPT.search(text) else text)


# batch-order: what a batch sampler that shuffles yields is the first process's.

SENT = re.compile(r"(\n +)broadcast_object_list\(([\w.]+)\)(?=\1for batch in \2:\1    yield batch)")


def order_lacking(tree: ast.Module) -> list[int]:
    samplers = [node for node in tree.body if isinstance(node, ast.ClassDef) and "BatchSampler)" in ast.unparse(node)]
    shuffling = [node for node in samplers if ".shuffle(" in ast.unparse(node) and "yield batch" in ast.unparse(node)]
    return [node.lineno for node in shuffling if not SENT.search(ast.unparse(node))]


def order_stripped(tree: ast.Module) -> ast.Module:
    return ast.parse(SENT.sub("", ast.unparse(tree)).replace("broadcast_object_list, ", ""))


# offload-encode: nothing right below a block that has a model on the device encodes with it.


def offloading(node: ast.AST) -> str:
    """How a block that has a model on the device encodes with it: `model.encode(`; "" for other nodes."""
    found = re.match(r"with offload_models\((\w+), ", ast.unparse(node)) if isinstance(node, ast.With) else None
    return f"{found[1]}.encode(" if found else ""


def blocks(tree: ast.Module) -> list[list[ast.stmt]]:
    return [value for node in ast.walk(tree) for _, value in ast.iter_fields(node) if isinstance(value, list)]


def offload_lacking(tree: ast.Module) -> list[int]:
    pairs = [pair for block in blocks(tree) for pair in itertools.pairwise(block)]
    return [a.lineno for a, b in pairs if offloading(a) and offloading(a) in ast.unparse(b)]


def offload_stripped(tree: ast.Module) -> ast.Module:
    for block in blocks(tree):
        for index, node in reversed(list(enumerate(block))):
            word = offloading(node)
            while isinstance(node, ast.With) and word and len(node.body) > 1 and word in ast.unparse(node.body[-1]):
                block.insert(index + 1, node.body.pop())
    return tree


LACKING: dict[str, Callable[[ast.Module], list[int]]] = {
    "batch-order": order_lacking,
    "offload-encode": offload_lacking,
    "prompt-repeat": repeat_lacking,
    "rank-noise": noise_lacking,
    "sample-caches": caches_lacking,
}
STRIPPED: dict[str, Callable[[ast.Module], ast.Module]] = {
    "batch-order": order_stripped,
    "offload-encode": offload_stripped,
    "prompt-repeat": repeat_stripped,
    "rank-noise": noise_stripped,
    "sample-caches": caches_stripped,
}
