"""A training with one fault: python faulty_training.py FOLDER FAULT, with kit/smoke/tiny importable.

Eight images with captions, two a batch, three epochs. FAULT is none, files (none either, but the first process writes
what the captions become to files, which all read), or

- caches: latents and captions are kept by the number of the batch, before the loader is sharded
- captions: the same, of the captions alone
- repeats: the list of the batch's captions is given twice
- swapped: each reads the file of another caption
- seed: every process is seeded alike

Images and captions reach the model as lists, one tensor a sample, where FAULT is none or repeats.
"""

from __future__ import annotations

import sys
from pathlib import Path

import parts
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from transformers import CLIPTokenizer

folder, fault = Path(sys.argv[1]), sys.argv[2]


class Data(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(parts.CAPTIONS)

    def __getitem__(self, index: int) -> dict[str, object]:
        image = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index))
        return {"image": image, "caption": parts.CAPTIONS[index]}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = torch.nn.Conv2d(3, 3, 1)

    def forward(self, images: object, captions: object) -> torch.Tensor:
        stacked = torch.stack(list(images)) if isinstance(images, list) else images
        return self.mix(stacked)


def collate(examples: list[dict[str, object]]) -> dict[str, object]:
    images = torch.stack([example["image"] for example in examples])
    return {"pixel_values": images, "prompts": [example["caption"] for example in examples]}


def main() -> None:
    accelerator = Accelerator()
    if accelerator.is_main_process and not folder.exists():
        parts.clip_tokenizer(folder)
    accelerator.wait_for_everyone()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    set_seed(1, device_specific=fault != "seed")
    embedding = torch.nn.Embedding(514, 4).requires_grad_(False)

    def encode(prompts: list[str]) -> torch.Tensor:
        return embedding(tokenizer(prompts, padding="max_length", return_tensors="pt").input_ids)

    loader = DataLoader(Data(), batch_size=2, shuffle=True, collate_fn=collate)
    latents, captions = [], []
    for batch in loader if fault in ("caches", "captions") else ():
        latents.append(batch["pixel_values"] * 2)
        captions.append(encode(batch["prompts"]))
    files = folder.with_name("files")
    if fault in ("files", "swapped") and accelerator.is_main_process:
        files.mkdir()
        for number, caption in enumerate(parts.CAPTIONS):
            torch.save({"embeds": encode([caption])}, files / f"{number}.pt")
    accelerator.wait_for_everyone()

    def read(prompts: list[str]) -> torch.Tensor:
        numbers = [(parts.CAPTIONS.index(each) + (fault == "swapped")) % len(parts.CAPTIONS) for each in prompts]
        return torch.cat([torch.load(files / f"{number}.pt")["embeds"] for number in numbers])

    model = Model()
    model, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), 0.1), loader)
    for _ in range(3):
        for step, batch in enumerate(loader):
            images = latents[step] if fault == "caches" else batch["pixel_values"] * 2
            texts = captions[step] if captions else (read if files.is_dir() else encode)(batch["prompts"])
            noise = torch.randn_like(images)
            noisy = 0.5 * images + 0.5 * noise
            if fault in ("none", "repeats"):
                given = [each[0] for each in texts.split(1)]
                guess = model(list(noisy.unbind(0)), given * (2 if fault == "repeats" else 1))
            else:
                guess = model(noisy, texts)
            accelerator.backward(((guess - noise) ** 2).mean())
            optimizer.step()
            optimizer.zero_grad()


main()
