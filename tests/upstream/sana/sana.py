"""The part of a tiny Sana that kit has none of: Gemma's tokenizer."""

import io
from pathlib import Path

import parts
import sentencepiece
from transformers import GemmaTokenizer


def gemma_tokenizer(folder: Path) -> None:
    """A sentencepiece BPE of the captions, 90 pieces at most."""
    folder.mkdir(parents=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(parts.CAPTIONS),
        model_writer=model,
        model_type="bpe",
        vocab_size=90,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    GemmaTokenizer(str(folder / "tokenizer.model"), model_max_length=512).save_pretrained(folder)
