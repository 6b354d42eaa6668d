"""Let accelerate prepare a model together with fairscale's OSS."""

from __future__ import annotations

import ast

from kit.fixes import Options, Site
from kit.fixes._ast import statements
from kit.fixes._table import Put, table

TITLE = "prepare a model and its OSS as a pair"
WHY = """\
prepare() moves an optimizer's state to the device by asking for it, and an OSS has only its own process's part of it:
`Optimizer state has not been consolidated on this rank`. And a model wrapped without its OSS keeps every gradient on
every process. With an OSS among them, the objects go through accelerate/sharded.py (overlay): ShardedDataParallel,
one opinion of all processes on overflow, the optimizer in accelerate's own wrapper. So no change to accelerate's
scheduler is needed: it asks that wrapper, as ever, whether a step was skipped."""
LINKS = ()
NEEDS = ("args", "device_placement", "torch")

_sites, edits = table(
    Put(
        "Accelerator.prepare",
        "tpu_should_fix_optimizer = ",
        """
        # a model and the OSS that shards its gradients and state
        from .sharded import find_oss, prepare_sharded

        if find_oss(args) is not None:
            return prepare_sharded(self, args, device_placement)
        """,
        how="before",
    ),
)

# What sharded.py says where to put a model with, and not to wrap it: before accelerate 0.20 it could not be said.
_WORDS = (("prepare", "device_placement"), ("prepare_model", "evaluation_mode"))


def sites(tree: ast.Module, options: Options) -> list[Site]:
    functions = [node for node, _ in statements(tree) if isinstance(node, ast.FunctionDef)]
    takes = {(each.name, word.arg) for each in functions for word in (*each.args.args, *each.args.kwonlyargs)}
    return _sites(tree, options) if takes.issuperset(_WORDS) else []
