"""Hand kohya's ControlNet data set its caption separator."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "hand ControlNet's data set the caption separator"
WHY = """\
DreamBoothSubset got the parameter caption_separator, and the call in ControlNetDataset was left as it was: every
argument after it slips by one place, and each ControlNet training, SDXL's ControlNet-LLLite too, ends in `missing 1
required positional argument: 'token_warmup_step'`."""
LINKS = ()
NEEDS = ("subset",)

_AT = "db_subset = DreamBoothSubset("

sites, edits = table(
    Put(
        "ControlNetDataset.__init__",
        _AT,
        """
        db_subset = DreamBoothSubset(
            subset.image_dir,
            False,
            None,
            subset.caption_extension,
            subset.num_repeats,
            subset.shuffle_caption,
            subset.caption_separator,
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
        """,
        how="replace",
        to=_AT,
    ),
)
