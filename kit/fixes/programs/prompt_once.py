"""Encode the one prompt of all images once, and let its encoders go."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kit.fixes import Options, Site, Splice
from kit.fixes._ast import Ancestors, block_of, statements, text

if TYPE_CHECKING:
    from kit.fixes._block import Block

TITLE = "encode the one prompt once"
WHY = """\
Without captions of their own all images share one prompt. It is encoded before training, and its encoders are moved to
the CPU and deleted by name, to free memory: nothing is freed, as the list `text_encoders` keeps both, on every rank. In
training they encode the prompt again for each batch, on the CPU, the T5 too. What was encoded before is repeated for a
batch instead: the instance prompt for its images, the class prompt for those of prior preservation. Then, and after
captions are cached, the list goes as well."""
CHANGES = (
    "The one prompt is encoded alone, on the device, not for each batch on the CPU: its embeddings round otherwise."
)
WITHIN = 1e-6  # relative bound on the losses in float32
LINKS = ()
NEEDS = ()

_FREED, _FREES = "del text_encoder_one, text_encoder_two, tokenizer_one, tokenizer_two", "del text_encoders, tokenizers"
_ENCODES = "compute_text_embeddings(prompts, text_encoders, tokenizers)"
_IDS = "text_ids = instance_text_ids"
_REPEATS = f"""\
{_IDS}
# a row for each prompt, encoded before training: repeated for the first batch, then as long as any
times, encoded = len(prompts) // len(prompt_embeds), (prompt_embeds, pooled_prompt_embeds)
prompt_embeds, pooled_prompt_embeds = (each.repeat_interleave(times, dim=0) for each in encoded)
"""


def sites(tree: ast.Module, options: Options) -> list[Site]:
    """Where the encoders are deleted, in order where their list is, too; where the one prompt is encoded for a batch,
    in order where what was encoded is repeated."""
    found = []
    for node, above in statements(tree):
        if text(node) == _FREED:
            found.append(Site(node.lineno, _below(node, above) == _FREES))
        elif text(node) == _IDS:
            found.append(Site(node.lineno, True))
        elif _encodes(node, above):
            found.append(Site(node.lineno, False))
    return found


def _below(node: ast.stmt, above: Ancestors) -> str:
    """The statement below another one, in the same block."""
    block = block_of(node, above)
    return text(block[at]) if (at := block.index(node) + 1) < len(block) else ""


def _encodes(node: ast.stmt, above: Ancestors) -> bool:
    """Whether a statement encodes the prompts of a batch in the `else` of images with captions."""
    choices = [(each, next_) for each, next_ in zip(above, [*above[1:], node], strict=True) if isinstance(each, ast.If)]
    alone = any(
        text(each.test).endswith(".custom_instance_prompts") and next_ in each.orelse for each, next_ in choices
    )
    return alone and isinstance(node, ast.Assign) and text(node.value) == _ENCODES


def edits(block: Block, options: Options) -> Iterator[Splice]:
    for index, node in block.wanted():
        if text(node) == _FREED:
            yield Splice.below(index, block.parse(f"{_FREES}\n"))
        elif _encodes(node, block.above):
            first, *rest = block.parse(_REPEATS)
            above = block.statements[index].leading_lines  # type: ignore[attr-defined]
            yield Splice.instead(index, [first.with_changes(leading_lines=above), *rest])
