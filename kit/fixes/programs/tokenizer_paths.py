"""Take SDXL's two tokenizers from paths."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "--tokenizer1_path and --tokenizer2_path"
WHY = """\
The script loads its tokenizers from the hub by fixed names. A machine without network has no other way than a cache
folder whose sub-folders are named just so; with these options each is a folder or a hub name of one's own."""
LINKS = ()
NEEDS = ("argparse",)

_OPTIONS = """
parser.add_argument("--tokenizer1_path", type=str, default=None, help="folder or hub name of tokenizer 1")
parser.add_argument("--tokenizer2_path", type=str, default=None, help="folder or hub name of tokenizer 2")
"""

sites, edits = table(
    Put(
        "load_tokenizers",
        "original_paths = [TOKENIZER1_PATH, TOKENIZER2_PATH]",
        """
        given_paths = [getattr(args, "tokenizer1_path", None), getattr(args, "tokenizer2_path", None)]
        original_paths = [given or original for given, original in zip(given_paths, original_paths)]
        """,
    ),
    Put("add_sdxl_training_arguments", "parser.add_argument('--cache_text_encoder_outputs_to_disk'", _OPTIONS),
    # scripts with options of their own
    Put("setup_parser", "parser = train_textual_inversion.setup_parser()", _OPTIONS),
    Put("setup_parser", "parser.add_argument('--tokenizer_cache_dir'", _OPTIONS),
)
