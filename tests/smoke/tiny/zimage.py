"""What no class of zimage.toml makes."""

from __future__ import annotations

from pathlib import Path

import parts
import transformers

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(folder: Path) -> None:
    """A Qwen 3's, of 300 tokens."""
    folder.mkdir(parents=True)
    trained = parts.bytes_tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    trained.model.save(str(folder))
    fast = transformers.Qwen2TokenizerFast(
        tokenizer_object=trained,
        unk_token="<|endoftext|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=512,
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
