"""sample-caches: keep what is encoded before training by sample, not by batch."""

from __future__ import annotations

from types import SimpleNamespace

from fixing import case, conflict, gone, run, satisfied, tables

from kit.fixes.sample_caches import _CAPTIONS, _FUNCTIONS, _WIDTH

NAME = "sample-caches"

HEAD = """\
import torch
from diffusers import AutoencoderKL
{imported}from diffusers.optimization import get_scheduler


class Pictures(Dataset):
    def __getitem__(self, index):
        at = index % self.count
        example = {{}}
{index}        example["picture"] = self.pictures[at]
        return example


def collate_fn(examples):
    pixels = torch.stack([example["picture"] for example in examples])

    batch = {{"pixel_values": pixels, "prompts": [example["prompt"] for example in examples]}}
{indices}    if pixels:
        batch.update(more)
    return batch


{functions}def main(args):
    pictures = Pictures(args.folder)
    loader = torch.utils.data.DataLoader(pictures, shuffle=True, collate_fn=lambda each: collate_fn(each, args.x))
"""
BEFORE = HEAD.format(imported="", index="", indices="", functions="")
FIRST, SECOND = "from diffusers import AutoencoderKL\n", "from diffusers.optimization import get_scheduler\n"
IMAGES, THIRD = "from diffusers.image_processor import Images\n", "from diffusers.utils import check\n"
GAUSSIAN = "from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution\n"
AFTER = HEAD.format(
    imported="{}",
    index='        example["index"] = index\n',
    indices='    batch["indices"] = [example["index"] for example in examples]\n',
    functions=f"{_FUNCTIONS}\n\n",
).replace("example = {}", "example = {{}}", 1)
WITH, WITHOUT = (AFTER.replace("{}", each, 1).replace("{{}}", "{}") for each in (GAUSSIAN, ""))

LATENTS = """\
    # encoded once
    cache = []
    for batch in tqdm(loader, desc="Caching latents"):
        cache.append(vae.encode(batch["pixel_values"]).latent_dist)  # large
    model, loader = accelerator.prepare(model, loader)
    for epoch in range(9):
        for step, batch in enumerate(loader):
            if args.cache_latents:
                model_input = cache[step].{method}()
"""
LATENTS_AFTER = """\
    # encoded once
    cache = {{}}
    for batch in tqdm(loader, desc="Caching latents"):
        cache_samples(cache, batch["indices"], vae.encode(batch["pixel_values"]).latent_dist.parameters)
    model, loader = accelerator.prepare(model, loader)
    for epoch in range(9):
        for step, batch in enumerate(loader):
            if args.cache_latents:
                model_input = DiagonalGaussianDistribution(cached_batch(cache, batch["indices"])).{method}()
"""
WIDE = "v" * (_WIDTH + 3 - max(map(len, LATENTS_AFTER.splitlines()[:4])))


def captions(fill: str, read: str, uncached: str, empty: str = "[]") -> str:
    return f"""\
    embeds = {empty}
    for batch in loader:
        {fill}
    loader = accelerator.prepare(loader)
    for step, batch in enumerate(loader):
        prompts = batch["prompts"]
        if pictures.captions:
            {read}
        else:
            {uncached}
"""


def captioned(id: str, uncached: str, before: tuple[str, str], after: tuple[str, str], empty: str = "{}") -> object:
    old, new = captions(*before, uncached), captions(*after, uncached, empty)
    return case(id, BEFORE + old, WITHOUT + new)


APPEND = "embeds.append(made)"
STATIC = "t.repeat_interleave(len(prompts), dim=0) for t in static"
FLUX_IDS = "text_ids = torch.zeros(prompt_embeds.shape[1], 3)"
THREE = "a, b, text_ids"

PADDED = """\
    embeds = {empty}
    masks = {empty}
    for batch in loader:
        {fill}
    loader = accelerator.prepare(loader)
    for step, batch in enumerate(loader):
        prompts = batch["prompts"]
        if pictures.captions:
            {read}
        else:
            made = made.repeat(len(prompts), 1, 1)
            made_mask = made_mask.repeat(len(prompts), 1)
        model(made, made_mask.sum(dim=1).tolist())
"""
PADDED_BEFORE = PADDED.format(
    empty="[]",
    fill="embeds.append(made)\n        masks.append(made_mask)",
    read="made = embeds[step]\n            made_mask = masks[step]",
)
PADDED_AFTER = PADDED.format(
    empty="{}",
    fill='cache_samples(embeds, batch["indices"], made)\n        cache_samples(masks, batch["indices"], made_mask)',
    read='made = cached_captions(embeds, masks, batch["indices"])\n'
    '            made_mask = cached_captions(masks, masks, batch["indices"])',
)

ONE = LATENTS.format(method="sample")
STOOD = "    {first}cached = args.cache\n    sampler = Buckets(pictures, shuffle_batches_each_epoch={shuffle})\n"

APPLIED = [
    case("sampled anew each time", BEFORE + ONE, WITH + LATENTS_AFTER.format(method="sample")),
    case(
        "a sampler that stood still for the caches' sake",
        BEFORE + STOOD.format(first="has_step_indexed_caches = ", shuffle="not has_step_indexed_caches") + ONE,
        WITH + STOOD.format(first="", shuffle="True") + LATENTS_AFTER.format(method="sample"),
    ),
    case("their mode", BEFORE + LATENTS.format(method="mode"), WITH + LATENTS_AFTER.format(method="mode")),
    captioned(
        "the first dimension counts the samples",
        "made = made.repeat(len(prompts), 1, 1)",
        (APPEND, "made = embeds[step]"),
        ('cache_samples(embeds, batch["indices"], made)', 'made = cached_batch(embeds, batch["indices"])'),
    ),
    captioned(
        "the second",
        "made = made.repeat(1, len(prompts), 1, 1)",
        (APPEND, "made = embeds[step]"),
        (
            'cache_samples(embeds, batch["indices"], made, dim=1)',
            'made = cached_batch(embeds, batch["indices"], dim=1)',
        ),
    ),
    captioned(
        "latents of an encoder without a distribution",
        "made = vae.encode(pixels).latent",
        ("embeds.append(vae.encode(pixels).latent)", "made = embeds[step]"),
        (
            'cache_samples(embeds, batch["indices"], vae.encode(pixels).latent)',
            'made = cached_batch(embeds, batch["indices"])',
        ),
    ),
    captioned(
        "a list with a tensor a sample",
        "made = [each for each in made for _ in prompts]",
        (APPEND, "made = embeds[step]"),
        (
            "embeds.update(\n"
            '            (index, made[i :: len(batch["indices"])]) for i, index in enumerate(batch["indices"])\n'
            "        )",
            'made = [embeds[index] for index in batch["indices"]]\n'
            "            made = [row for rows in zip(*made) for row in rows]",
        ),
    ),
    captioned(
        "several at once",
        f"a, b = ({STATIC})",
        (APPEND, "a, b = embeds[step]"),
        (
            'for cache, values in zip(embeds, made):\n            cache_samples(cache, batch["indices"], values)',
            'a, b = (\n                cached_batch(cache, batch["indices"]) for cache in embeds\n            )',
        ),
        "({}, {})",
    ),
    captioned(
        "several, one of them for the whole batch",
        f"a, b = ({STATIC}); {FLUX_IDS}",
        (f"embeds.append(({THREE}))", f"{THREE} = embeds[step]"),
        (
            'for cache, values in zip(embeds, (a, b, text_ids.expand(len(batch["indices"]), -1, -1))):\n'
            '            cache_samples(cache, batch["indices"], values)',
            f'{THREE} = (\n                cached_batch(cache, batch["indices"]) for cache in embeds\n            )\n'
            "            text_ids = text_ids[0]",
        ),
        "({}, {}, {})",
    ),
    case(
        "captions of their own length, told by a mask",
        BEFORE + PADDED_BEFORE,
        WITHOUT.replace("def main(", f"{_CAPTIONS}\n\ndef main(") + PADDED_AFTER,
        count=2,
    ),
    *(
        case(
            f"imported {where}",
            (BEFORE + LATENTS.format(method="sample")).replace(f"{FIRST}{SECOND}", old),
            (WITH + LATENTS_AFTER.format(method="sample")).replace(f"{FIRST}{GAUSSIAN}{SECOND}", new),
        )
        for where, old, new in (
            ("among others", f"{FIRST}{IMAGES}{SECOND}", f"{FIRST}{IMAGES}{GAUSSIAN}{SECOND}"),
            ("above all of it", f"{SECOND}{THIRD}", f"{GAUSSIAN}{SECOND}{THIRD}"),
            (
                "below others",
                f"from a import b\nfrom z import y\n{FIRST}",
                f"from a import b\nfrom z import y\n{FIRST}{GAUSSIAN}",
            ),
            ("with none below it", f"{FIRST}{IMAGES}", f"{FIRST}{GAUSSIAN}{IMAGES}"),
            (
                "with none of diffusers",
                "from a import b\nfrom c import d\n",
                f"from a import b\n{GAUSSIAN}from c import d\n",
            ),
        )
    ),
    case(
        "as wide as a line may be",
        BEFORE + LATENTS.format(method="sample").replace("vae", WIDE),
        WITH + LATENTS_AFTER.format(method="sample").replace("vae", WIDE),
    ),
    case(
        "a letter wider",
        BEFORE + LATENTS.format(method="sample").replace("vae", f"{WIDE}v"),
        WITH
        + LATENTS_AFTER.format(method="sample")
        .replace("vae", f"{WIDE}v")
        .replace("samples(cache", "samples(\n            cache")
        .replace("parameters)", "parameters\n        )"),
    ),
]

REPEATED = captions(APPEND, "made = embeds[step]", "made = made.repeat(len(prompts), 1)")


def refused(id: str, reason: str, line: str, text: str) -> object:
    lines = text.splitlines()
    return conflict(id, reason, 1 + next(at for at, each in enumerate(lines) if line in each), text)


REFUSED = [
    satisfied("as this fix writes it", WITH + LATENTS_AFTER.format(method="sample")),
    satisfied(
        "as upstream does",
        "def main():\n    for batch in loader:\n        sample_indices = batch['indices']\n"
        "        x = torch.cat([cache[idx] for idx in sample_indices], dim=0)\n",
    ),
    gone("no cache", BEFORE + "    for step, batch in enumerate(loader):\n        x = vae(batch)\n"),
    gone("a list that is no loader's", "def f():\n    a = []\n    for i, x in enumerate(y):\n        a[i] = x\n"),
    gone("a cache of another's", BEFORE + "    for step, batch in enumerate(loader):\n        x = known[step]\n"),
    refused("another use", "used otherwise than", "cache[step]", BEFORE + ONE + "    print(cache)\n"),
    refused(
        "filled by another loop",
        "is not filled in a loop over the batches of `loader`",
        "cache[step]",
        BEFORE + ONE.replace("tqdm(loader, ", "tqdm(others, "),
    ),
    refused("read otherwise", "in a way it does not know", "cache[step]", BEFORE + ONE.replace(".sample()", ".mean")),
    refused(
        "captions of their own length",
        "differ in length",
        "embeds[step]",
        BEFORE + REPEATED.replace("made", "made_mask"),
    ),
    refused(
        "captions of their own length, told otherwise",
        "differ in length",
        "= embeds[step]",
        BEFORE + PADDED_BEFORE.replace(".sum(dim=1)", ".any()"),
    ),
    refused(
        "nothing says which dimension",
        "nothing in it says which dimension of `made`",
        "embeds[step]",
        BEFORE + REPEATED.replace(".repeat(len(prompts), 1)", ".expand(x)"),
    ),
    refused("a sampler", "is given sampler", "cache[step]", BEFORE.replace("shuffle=True", "sampler=s") + ONE),
    refused("some dropped", "is given drop_last", "cache[step]", BEFORE.replace("shuffle", "drop_last") + ONE),
    refused(
        "another's batch sampler",
        "the class of `sampler` is not in this file",
        "cache[step]",
        BEFORE.replace("shuffle=True", "batch_sampler=sampler") + ONE,
    ),
    refused(
        "a data set from elsewhere",
        "the class of `pictures` is not in this file",
        "cache[step]",
        BEFORE.replace("class Pictures", "class Others") + ONE,
    ),
    refused(
        "no dictionary for a sample",
        "`Pictures.__getitem__` does not return a dictionary",
        "cache[step]",
        BEFORE.replace("example = {}", "example = self.examples[index]") + ONE,
    ),
    refused(
        "no dictionary for a batch",
        "the collate_fn of `loader` does not return a dictionary",
        "cache[step]",
        BEFORE.replace("return batch", "return list(batch)") + ONE,
    ),
    refused("no torch", "`torch` is not bound", "cache[step]", BEFORE.replace("import torch\n", "import os\n") + ONE),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


class Rows(list):  # type: ignore[type-arg]
    """As much of a tensor as the two functions need: rows, the first dimension counts them."""

    def unflatten(self, dim: int, sizes: tuple[int, int]) -> Rows:
        assert dim == 0 and len(self) % sizes[1] == 0
        return Rows(self[at : at + sizes[1]] for at in range(0, len(self), sizes[1]))

    def unbind(self, dim: int) -> list[Rows]:
        assert dim == 1
        return [Rows(share) for share in zip(*self, strict=True)]

    def flatten(self, start: int, end: int) -> Rows:
        assert (start, end) == (0, 1)
        return Rows(row for rows in self for row in rows)


def stack(shares: list[Rows], dim: int) -> Rows:
    assert dim == 1
    return Rows(zip(*shares, strict=True))


def test_a_batch_in_any_order_has_each_sample_and_its_class_image() -> None:
    functions = run(_FUNCTIONS, torch=SimpleNamespace(stack=stack))
    for classes in (False, True):
        cache: dict[int, Rows] = {}
        for indices in ([3, 0], [2, 4], [1]):  # the last batch is short
            rows = [f"image {index}" for index in indices] + [f"class {index}" for index in indices] * classes
            functions["cache_samples"](cache, indices, Rows(rows))
        wanted = ["image 4", "image 1", "image 0"] + ["class 4", "class 1", "class 0"] * classes
        assert functions["cached_batch"](cache, [4, 1, 0]) == wanted
        assert len(cache) == 5
