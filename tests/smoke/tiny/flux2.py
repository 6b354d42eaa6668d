"""What no class of flux2.toml makes."""

from __future__ import annotations

from pathlib import Path

import parts
import transformers

# Without the system message, which alone is longer than 64 tokens: the captions would be cut off.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% for block in message['content'] %}{{ block['text'] }}{% endfor %}[/INST]{% endif %}{% endfor %}"
)


def processor(folder: Path) -> None:
    """A Mistral 3's, of 300 tokens: [IMG] is the sixth."""
    images = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=parts.bytes_tokenizer("<unk>", "<s>", "</s>", "[INST]", "[/INST]", *images, "<pad>"),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=512,
    )
    pictures = transformers.PixtralImageProcessor(size={"longest_edge": 32}, patch_size={"height": 4, "width": 4})
    transformers.PixtralProcessor(
        pictures, tokenizer, patch_size=4, spatial_merge_size=2, chat_template=TEMPLATE
    ).save_pretrained(folder)
