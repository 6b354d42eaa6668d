"""sample-caches: left alone where a row of a cache may be another sample's, or where nothing shuffles the batches."""

from __future__ import annotations

import pytest
from fixing import case, gone, satisfied, tables
from test_sample_caches import (
    APPEND,
    BEFORE,
    LATENTS,
    LATENTS_AFTER,
    NAME,
    ONE,
    PADDED_BEFORE,
    REPEATED,
    WIDE,
    WITH,
    captions,
    refused,
)

from kit.fixes.sample_caches import _call

AFTER = LATENTS_AFTER.format(method="sample")
FILL = '        cache.append(vae.encode(batch["pixel_values"]).latent_dist)  # large\n'
FILLED = '        cache_samples(cache, batch["indices"], vae.encode(batch["pixel_values"]).latent_dist.parameters)\n'
ENCODE = "def encode(prompts):\n    made = {made}\n    return made\n\n\n"
READ = "made = embeds[step]"
EITHER = "        if args.x:\n    {0}        else:\n    {0}"
INDEX = '        example["index"] = index\n        example["picture"]'
INDICES = '    batch["indices"] = [example["index"] for example in examples]\n    if pixels'

OTHERS = """\
class Aaa:
    def __getitem__(self, index):
        example = {}
        return example


class Zzz(Aaa):
    def __getitem__(self, index):
        example = {}
        return example


def aaa(batch):
    batch = {}


def zzz(batch):
    batch = {}


"""
DECODER = "from diffusers.models.autoencoders.vae import Decoder\n"

APPLIED = [
    case(
        "beside other classes and functions",
        *(
            text.replace("class Pictures", f"{OTHERS}class Pictures").replace(
                "        return example\n\n\ndef collate",
                "        return example\n\n    def zzz(self):\n        example = {}\n\n\ndef collate",
            )
            for text in (BEFORE + ONE, WITH + AFTER)
        ),
    ),
    case(
        "sharded, in order", *(text.replace("shuffle=True", "shuffle=False") for text in (BEFORE + ONE, WITH + AFTER))
    ),
    case(
        "one entry a batch, whichever branch, as wide as a line may be",
        BEFORE + ONE.replace(FILL, EITHER.format(FILL)).replace("vae", WIDE[4:]),
        WITH + AFTER.replace(FILLED, EITHER.format(FILLED)).replace("vae", WIDE[4:]),
    ),
    case(
        "below another import from there",
        BEFORE.replace("from diffusers.optim", f"{DECODER}from diffusers.optim") + ONE,
        WITH.replace("from diffusers.models", f"{DECODER}from diffusers.models") + AFTER,
    ),
    case(
        "a partial",
        *(
            text.replace("lambda each: collate_fn(each, args.x)", "partial(collate_fn, x=args.x)")
            for text in (BEFORE + ONE, WITH + AFTER)
        ),
    ),
    case("a list by its name", BEFORE + ONE.replace("cache = []", "cache = list()"), WITH + AFTER),
    case(
        "an index handed on already",
        BEFORE.replace('        example["picture"]', INDEX, 1).replace("    if pixels", INDICES) + ONE,
        WITH + AFTER,
    ),
]


def where(id: str, reason: str, old: str, new: str) -> object:
    """The script is refused once ``new`` stands for ``old`` in it."""
    assert old in BEFORE + ONE
    return refused(id, reason, "cache[step]", (BEFORE + ONE).replace(old, new, 1))


def unclear(id: str, uncached: str, made: str = "t5(prompts)", says: str = "nothing in it says which") -> object:
    """Captions of which too little is said: ``uncached`` is what the loop makes without a cache."""
    encode = ENCODE.format(made=made)
    script = BEFORE.replace("def main", f"{encode}def main") + captions(APPEND, READ, uncached)
    return refused(id, says, "embeds[step]", script)


PICTURE = '        example["picture"] ='
BATCH = '    batch = {"pixel_values"'
LEFT_OUT = "`collate_fn` may leave out or move examples"
ROW = '[example["picture"] for example in examples]'
ADDED = "        rows.append(example[{0}])\n"
APART = f"    rows = []\n    for example in examples:\n{ADDED.format(1)}{ADDED.format(2)}"
MOVED = "may have other rows than the batch has samples"
ENCODED = 'vae.encode(batch["pixel_values"])'

BESIDE = """\
    kept = {}
    for batch in loader:
        kept[len(kept)] = encode(batch["prompts"])
"""

REFUSED = [
    refused(
        "another is read by the batch, too",
        "`kept` (line 38) is read by the batch, too",
        "model_input = cache[step]",
        BEFORE
        + LATENTS.format(method="sample").replace("    model, loader", f"{BESIDE}    model, loader")
        + "            prompts = kept[step]\n",
    ),
    satisfied("its own output", WITH + AFTER),
    gone(
        "nothing shuffles or shards the batches",
        BEFORE.replace("shuffle=True", "shuffle=False") + ONE.replace("model, loader = accelerator.prepare", "f"),
    ),
    unclear("joined in a function", "x = y", "torch.cat([clip, t5], dim=1)"),
    unclear("repeated in a function", "x = y", "t5.repeat(1, n, 1)"),
    unclear("joined in the loop", "made = torch.cat([clip, t5], dim=1)"),
    unclear("repeated otherwise", "made = t5.repeat(1, n, 1)"),
    unclear("a list of another kind", "made = [each(prompts) for each in encoders]"),
    unclear(
        "two dimensions",
        "made = a.repeat(len(prompts), 1); made = b.repeat(1, len(prompts))",
        says="more than one thing in it says which",
    ),
    refused(
        "repeated once it is read",
        "nothing in it says which dimension",
        "embeds[step]",
        BEFORE + REPEATED.replace("if pictures.captions", "if True").replace("        else:\n    ", ""),
    ),
    refused(
        "lengths told elsewhere",
        "captions differ in length",
        "= embeds[step]",
        BEFORE.replace("def main", "def f(made_mask):\n    return made_mask.sum(dim=1)\n\n\ndef main")
        + PADDED_BEFORE.replace(".sum(dim=1)", ".any()"),
    ),
    where("two names for it", "is read by the step in a way it does not know", "= cache[step]", "= a = cache[step]"),
    where(
        "an index of its own", 'uses "index" itself', PICTURE, f'        example["index"] = self.ids[index]\n{PICTURE}'
    ),
    where("one in the dictionary", 'uses "index" itself', "example = {}", 'example = {"index": self.ids[index]}'),
    where(
        "one that is asked for", 'uses "index" itself', BATCH, f'    n = [each["index"] for each in examples]\n{BATCH}'
    ),
    where("indices of its own", 'uses "indices" itself', '"prompts":', '"indices": torch.tensor(x), "prompts":'),
    where("indices by name", 'uses "indices" itself', "batch.update(more)", "batch.update(indices=x)"),
    where("indices in training", 'uses "indices" itself', "    # encoded once", '    f("indices")\n    # encoded once'),
    where("a function so called", "the name `cache_samples`", "def main", "def cache_samples(x): ...\n\n\ndef main"),
    where("an import so called", "the name `cached_batch`", "import torch", "from x import cached_batch\nimport torch"),
    where("a collator", "is no function of this file", "lambda each: collate_fn(each, args.x)", "Collator(args.x)"),
    where("another index", "gives `index` another value", PICTURE, f"        index = random.randrange(9)\n{PICTURE}"),
    where("another sample", "returns early", PICTURE, f"        if x:\n            return self[0]\n{PICTURE}"),
    where("examples left out", LEFT_OUT, BATCH, f"    examples = [each for each in examples if each]\n{BATCH}"),
    where("examples filtered", LEFT_OUT, "for example in examples]", 'for example in examples if example["picture"]]'),
    where("examples moved", LEFT_OUT, BATCH, f"    examples.sort()\n{BATCH}"),
    where("an example put in", LEFT_OUT, BATCH, f"    examples[0] = x\n{BATCH}"),
    where("two rows a sample", LEFT_OUT, ROW, '[each for example in examples for each in example["frames"]]'),
    where("backwards", LEFT_OUT, ROW, '[example["picture"] for example in examples[::-1]]'),
    where("by a function", LEFT_OUT, ROW, '[example["picture"] for example in reversed(examples)]'),
    where("rows put in by turns", LEFT_OUT, BATCH, f"{APART}{BATCH}"),
    where("rows turned round there", LEFT_OUT, BATCH, f"    pixels = pixels.flip(0)\n{BATCH}"),
    where("frames", MOVED, ENCODED, 'vae.encode(batch["pixel_values"].flatten(0, 1))'),
    where("frames by name", MOVED, ENCODED, 'vae.encode(rearrange(batch["pixel_values"], "b f c -> (b f) c"))'),
    where("a part of the batch", MOVED, ENCODED, 'vae.encode(batch["pixel_values"][:4])'),
    where("turned round above", MOVED, FILL, f'        batch["pixel_values"] = batch["pixel_values"].flip(0)\n{FILL}'),
    where("two entries a batch", "several entries for a batch", FILL, FILL + FILL),
    where("an entry a view", "several entries for a batch", FILL, f"        for view in views:\n    {FILL}"),
    where("some batches", "may leave out batches", FILL, f"{FILL}        if x:\n            break\n"),
]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@pytest.mark.parametrize("depth", [0, 3])
def test_a_line_is_as_wide_as_in_diffusers(depth: int) -> None:
    name = "x" * (119 - 4 * depth - len("a = f(, b)"))
    assert _call("a = ", "f", [name, "b"], "", depth) == f"a = f({name}, b)"
    assert _call("a = ", "f", [f"{name}x", "b"], "", depth) == f"a = f(\n    {name}x, b\n)"
