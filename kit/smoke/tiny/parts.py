"""Parts of tiny models: tokenizers trained here, models that are no component of a pipeline, folders of images. No hub.

Runs in a recipe's reference environment, not in kit's own. Sizes are the smallest that the real pipelines accept
(measured; each function says what is fixed by whom). Everything is deterministic: call `torch.manual_seed` first.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Tokenizer,
)

CAPTIONS = (
    "a photo of a small dog",
    "3d icon of a cat",
    "a llama eating ramen",
    "a tree in the wind",
    "blue sky over the sea",
    "an old house on a hill",
    "red apple on a table",
    "a car in the rain",
)


def clip_tokenizer(folder: Path) -> None:
    """Bytes, bytes that end a word, and the two specials: 514 tokens, no merges, 77 at most."""
    folder.mkdir(parents=True)
    from transformers.models.clip.tokenization_clip import bytes_to_unicode  # not in transformers 5

    characters = list(bytes_to_unicode().values())
    tokens = [*characters, *(f"{each}</w>" for each in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77).save_pretrained(folder)


def t5_tokenizer(folder: Path) -> None:
    """A sentencepiece unigram model of the captions: pad 0, eos 1, unknown 2."""
    import sentencepiece  # only recipes with a T5 have it

    folder.mkdir(parents=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS),
        model_writer=model,
        model_type="unigram",
        vocab_size=120,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    T5Tokenizer(str(folder / "spiece.model"), extra_ids=0, legacy=True, model_max_length=512).save_pretrained(folder)


def qwen2_tokenizer(folder: Path) -> None:
    """Bytes, `<|endoftext|>` and Qwen2.5-VL's seven other specials: 264 tokens, no merges."""
    from transformers import Qwen2Tokenizer
    from transformers.models.qwen2.tokenization_qwen2 import bytes_to_unicode

    folder.mkdir(parents=True)
    characters = bytes_to_unicode().values()
    (folder / "vocab.json").write_text(json.dumps({each: number for number, each in enumerate(characters)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    names = ("im_start", "im_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad")
    files = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    specials = [f"<|{name}|>" for name in names]
    Qwen2Tokenizer(*files, model_max_length=1024, additional_special_tokens=specials).save_pretrained(folder)


def bytes_tokenizer(*specials: str) -> Tokenizer:
    """Byte-level BPE of the captions, 300 tokens, with the specials its first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=list(specials), initial_alphabet=alphabet)
    tokenizer.train_from_iterator(CAPTIONS, trainer)
    return tokenizer


def llama(folder: Path) -> None:
    """A Llama 16 wide with its byte-level BPE tokenizer, in one folder, as the published checkpoint is."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bytes_tokenizer("<s>", "</s>"),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        model_max_length=256,
    )
    fast.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def clip(folder: Path) -> None:
    """A CLIP model 32 wide for pictures of 30 x 30 pixels, with its tokenizer and image processor."""
    clip_tokenizer(folder)
    text = {"vocab_size": 514, "hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4}
    text |= {"num_hidden_layers": 2, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    vision = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 2}
    vision |= {"image_size": 30, "patch_size": 6}
    torch.manual_seed(9)  # with most others pictures and captions score 0 or less, which a CLIP score shows as 0
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)).save_pretrained(folder)
    size = {"height": 30, "width": 30}
    CLIPImageProcessor(size={"shortest_edge": 30}, crop_size=size).save_pretrained(folder)


def samples() -> Iterator[tuple[str, Image.Image, str]]:
    """For each caption a name, a picture of 40 x 40 pixels, no two alike, and the caption."""
    for number, caption in enumerate(CAPTIONS):
        shade = Image.linear_gradient("L").resize((40, 40)).rotate(45 * number)
        yield f"{number:02}", Image.merge("RGB", (shade, shade.transpose(Image.Transpose.ROTATE_90), shade)), caption


def images_alone(folder: Path) -> None:
    """Images and nothing else: the layout of diffusers/dog-example."""
    folder.mkdir(parents=True)
    for name, picture, _ in samples():
        picture.save(folder / f"{name}.jpeg")


def image_folder(folder: Path, caption: str) -> None:
    """Images with a metadata.jsonl whose column ``caption`` holds their captions: the layout of linoyts/3d_icon."""
    folder.mkdir(parents=True)
    rows = []
    for name, picture, text in samples():
        picture.save(folder / f"{name}.jpg")
        rows.append(json.dumps({"file_name": f"{name}.jpg", caption: text}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")


def parquet_folder(folder: Path, caption: str, images: Sequence[str] = ("image",)) -> None:
    """Images and captions in one parquet file, with what datasets needs to know them as images: the layout of
    lambdalabs/pokemon-blip-captions, or, with a second column of ``images``, the same in half the light, that of
    kontext-community/relighting."""
    import pyarrow
    from pyarrow import parquet

    (folder / "data").mkdir(parents=True)
    features = {**{name: {"_type": "Image"} for name in images}, caption: {"dtype": "string", "_type": "Value"}}
    rows = []
    for name, picture, text in samples():
        row: dict[str, object] = {caption: text}
        for number, column in enumerate(images):
            content = io.BytesIO()
            picture.point(lambda value, dimmer=number: value >> dimmer).save(content, "JPEG")
            row[column] = {"bytes": content.getvalue(), "path": f"{name}.jpg"}
        rows.append(row)
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    known = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = [*((name, image) for name in images), (caption, pyarrow.string())]
    schema = pyarrow.schema(columns, metadata=known)
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), folder / "data" / "train-001.parquet")
    infos = {"default": {"features": {name: {"id": None, **feature} for name, feature in features.items()}}}
    (folder / "dataset_infos.json").write_text(json.dumps(infos) + "\n")
    (folder / "README.MD").write_text("Eight pictures and captions.\n")


def model_index(folder: Path, pipeline: str, parts: dict[str, tuple[str | None, str | None]]) -> None:
    """model_index.json, the table of contents of a diffusers checkpoint."""
    table = {"_class_name": pipeline, "_diffusers_version": "0.34.0", **parts}
    (folder / "model_index.json").write_text(json.dumps(table, indent=2) + "\n")
