"""What comes of sample-caches, prompt-repeat and batch-order on every script that keeps latents or captions."""

from __future__ import annotations

import ast
from collections.abc import Callable

import pytest
from test_fixes import DIFFUSERS, PIN, at

from kit import codemod, fixes
from kit.fixes import Outcome

# Every script that keeps latents or captions for its batches, at the pin, at upstream's newest commit when this was
# written, and at the FLUX.2 page's pin: what comes of sample-caches, prompt-repeat and batch-order.
NEWEST = "58eb52c0803ea9af3abec60841c2a093bdf1f951"
FLUX2 = "29a930a142bba88ce30eba8e93e512a3e9bdc49c"
APPLIED, SATISFIED, GONE, CONFLICT = Outcome.applied, Outcome.satisfied, Outcome.gone, Outcome.conflict
_LATENTS = {  # latents alone, torch's own sampler: at all three
    f"examples/{script}.py": (APPLIED, GONE, GONE)
    for script in (
        "advanced_diffusion_training/train_dreambooth_lora_flux_advanced",
        "dreambooth/train_dreambooth_lora_flux",
        "dreambooth/train_dreambooth_lora_lumina2",
        "dreambooth/train_dreambooth_lora_sana",
        "dreambooth/train_dreambooth_lora_sd3",
        "research_projects/flux_lora_quantization/train_dreambooth_lora_flux_miniature",
    )
}
_LATENTS |= {  # these repeat their prompts from a name of its own
    f"examples/advanced_diffusion_training/train_dreambooth_lora_{family}_advanced.py": (APPLIED, SATISFIED, GONE)
    for family in ("sd15", "sdxl")
}
_LORA = "examples/dreambooth/train_dreambooth_lora_"
CACHES = {
    PIN: {**_LATENTS, f"{_LORA}hidream.py": (APPLIED, APPLIED, GONE)},
    NEWEST: {
        **_LATENTS,
        f"{_LORA}flux2.py": (SATISFIED, SATISFIED, APPLIED),  # by index since #13712
        f"{_LORA}flux2_img2img.py": (APPLIED, APPLIED, APPLIED),
        f"{_LORA}flux2_klein.py": (SATISFIED, SATISFIED, APPLIED),
        f"{_LORA}flux2_klein_img2img.py": (APPLIED, APPLIED, APPLIED),
        f"{_LORA}flux_kontext.py": (APPLIED, GONE, APPLIED),
        f"{_LORA}hidream.py": (APPLIED, APPLIED, GONE),
        f"{_LORA}ideogram4.py": (APPLIED, GONE, APPLIED),
        f"{_LORA}krea2.py": (SATISFIED, GONE, APPLIED),
        f"{_LORA}qwen_image.py": (SATISFIED, GONE, APPLIED),
        f"{_LORA}z_image.py": (APPLIED, APPLIED, APPLIED),
    },
    FLUX2: {
        **_LATENTS,
        f"{_LORA}flux2.py": (APPLIED, APPLIED, APPLIED),
        f"{_LORA}flux2_img2img.py": (APPLIED, APPLIED, APPLIED),
        f"{_LORA}flux_kontext.py": (APPLIED, GONE, APPLIED),
        f"{_LORA}hidream.py": (APPLIED, APPLIED, GONE),
        f"{_LORA}qwen_image.py": (CONFLICT, APPLIED, GONE),  # captions keep the length that their batch had
    },
}


@pytest.mark.parametrize("pin", CACHES)
def test_every_script_with_caches(pin: str, reach: Callable[[str], None]) -> None:
    reach(DIFFUSERS)
    found = {}
    for path, content in at(pin, "examples").items():
        sites = fixes.load("sample-caches").sites(ast.parse(content), {})
        if sites:
            names = ("sample-caches", "prompt-repeat", "batch-order")
            results = [codemod.run(fixes.load(name), content, path, None) for name in names]
            found[path] = tuple(each.outcome for each in results)
            for each in results:
                compile(each.content, path, "exec", dont_inherit=True)
    assert found == CACHES[pin]
