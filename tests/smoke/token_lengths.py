"""What of a long caption each --max_token_length keeps: token_lengths.py TREE TINY, in the environment of recipe sdxl.

Prints a line a length: the tokens of the caption that reach the text encoders, the windows they come in, and the length
of what the U-Net sees: two marks for all windows together.
"""

from __future__ import annotations

import sys

CAPTION = "abcdefghij" * 60  # 600 tokens to a tokenizer of bytes


def main(tree: str, tiny: str) -> None:
    sys.path.insert(0, tree)
    import sdxl_pretrain
    from library import sdxl_train_util, train_util
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    model = f"{tiny}/model"
    encoders = (
        CLIPTextModel.from_pretrained(f"{model}/text_encoder"),
        CLIPTextModelWithProjection.from_pretrained(f"{model}/text_encoder_2"),
    )
    paths = [f"--tokenizer1_path={model}/tokenizer", f"--tokenizer2_path={model}/tokenizer_2"]
    for length in ("none", "77", "150", "225", "512"):
        words = [] if length == "none" else [f"--max_token_length={length}"]
        args = sdxl_pretrain.setup_parser().parse_args([*paths, *words])
        train_util.verify_training_args(args)
        tokenizers = sdxl_train_util.load_tokenizers(args)
        data = train_util.BaseDataset(tokenizers, args.max_token_length, (64, 64), False)
        ids = [data.get_input_ids(CAPTION, tokenizer)[None] for tokenizer in tokenizers]
        hidden = train_util.get_hidden_states_sdxl(args.max_token_length, *ids, *tokenizers, *encoders, None)
        kept = int((ids[0] < tokenizers[0].bos_token_id).sum())
        print(f"length {length}: {kept} tokens, {ids[0].shape[1]} windows, {hidden[0].shape[1]} hidden states")


if __name__ == "__main__":
    main(*sys.argv[1:3])
