"""controlnet-separator: hand ControlNet's data set its caption separator."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "controlnet-separator"

BEFORE = """
class ControlNetDataset:
    def __init__(self, subsets):
        db_subsets = []
        for subset in subsets:
            db_subset = DreamBoothSubset(
                subset.image_dir,
                False,
                None,
                subset.caption_extension,
                subset.num_repeats,
                subset.shuffle_caption,
                subset.keep_tokens,
                subset.color_aug,
                subset.flip_aug,
                subset.face_crop_aug_range,
                subset.random_crop,
                subset.caption_dropout_rate,
                subset.caption_dropout_every_n_epochs,
                subset.caption_tag_dropout_rate,
                subset.caption_prefix,
                subset.caption_suffix,
                subset.token_warmup_min,
                subset.token_warmup_step,
            )
            db_subsets.append(db_subset)
"""
LINE = "                subset.shuffle_caption,\n"
AFTER = BEFORE.replace(LINE, f"{LINE}                subset.caption_separator,\n")

APPLIED = [case("as in the library, one line more", BEFORE, AFTER)]

REFUSED = [
    satisfied("there", AFTER),
    gone("a subset of other things", BEFORE.replace("subset.shuffle_caption", "shuffle")),
    conflict("another name", "`subset` is not bound", 5, BEFORE.replace("for subset in", "for each in")),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
