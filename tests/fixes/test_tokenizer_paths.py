"""tokenizer-paths: take SDXL's two tokenizers from paths."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "tokenizer-paths"

APPLIED = [
    case(
        "as in the library",
        """
        import argparse

        TOKENIZER1_PATH = "one"
        TOKENIZER2_PATH = "two"


        def load_tokenizers(args):
            original_paths = [TOKENIZER1_PATH, TOKENIZER2_PATH]
            return [load(path) for path in original_paths]


        def add_sdxl_training_arguments(parser):
            parser.add_argument("--cache_text_encoder_outputs_to_disk", action="store_true")
        """,
        """
        import argparse

        TOKENIZER1_PATH = "one"
        TOKENIZER2_PATH = "two"


        def load_tokenizers(args):
            original_paths = [TOKENIZER1_PATH, TOKENIZER2_PATH]
            given_paths = [getattr(args, "tokenizer1_path", None), getattr(args, "tokenizer2_path", None)]
            original_paths = [given or original for given, original in zip(given_paths, original_paths)]
            return [load(path) for path in original_paths]


        def add_sdxl_training_arguments(parser):
            parser.add_argument("--cache_text_encoder_outputs_to_disk", action="store_true")
            parser.add_argument("--tokenizer1_path", type=str, default=None, help="folder or hub name of tokenizer 1")
            parser.add_argument("--tokenizer2_path", type=str, default=None, help="folder or hub name of tokenizer 2")
        """,
        count=2,
    ),
    case(
        "textual inversion, which calls another script's parser",
        """
        import argparse


        def setup_parser() -> argparse.ArgumentParser:
            parser = train_textual_inversion.setup_parser()
            return parser
        """,
        """
        import argparse


        def setup_parser() -> argparse.ArgumentParser:
            parser = train_textual_inversion.setup_parser()
            parser.add_argument("--tokenizer1_path", type=str, default=None, help="folder or hub name of tokenizer 1")
            parser.add_argument("--tokenizer2_path", type=str, default=None, help="folder or hub name of tokenizer 2")
            return parser
        """,
    ),
    case(
        "image generation, whose options are its own",
        """
        import argparse


        def setup_parser() -> argparse.ArgumentParser:
            parser = argparse.ArgumentParser()
            parser.add_argument(
                "--tokenizer_cache_dir",
                type=str,
            )
            return parser
        """,
        """
        import argparse


        def setup_parser() -> argparse.ArgumentParser:
            parser = argparse.ArgumentParser()
            parser.add_argument(
                "--tokenizer_cache_dir",
                type=str,
            )
            parser.add_argument("--tokenizer1_path", type=str, default=None, help="folder or hub name of tokenizer 1")
            parser.add_argument("--tokenizer2_path", type=str, default=None, help="folder or hub name of tokenizer 2")
            return parser
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        import argparse

        TOKENIZER1_PATH = "one"
        TOKENIZER2_PATH = "two"


        def load_tokenizers(args):
            original_paths = [TOKENIZER1_PATH, TOKENIZER2_PATH]
            given_paths = [getattr(args, "tokenizer1_path", None), getattr(args, "tokenizer2_path", None)]
            original_paths = [given or original for given, original in zip(given_paths, original_paths)]
            return [load(path) for path in original_paths]


        def add_sdxl_training_arguments(parser):
            parser.add_argument("--cache_text_encoder_outputs_to_disk", action="store_true")
            parser.add_argument("--tokenizer1_path", type=str, default=None, help="folder or hub name of tokenizer 1")
            parser.add_argument("--tokenizer2_path", type=str, default=None, help="folder or hub name of tokenizer 2")
        """,
    ),
    gone(
        "one tokenizer",
        """
        def load_tokenizer(args):
            original_path = PATH
        """,
    ),
    conflict(
        "no parser",
        "`argparse` is not bound",
        2,
        """
        def load_tokenizers(args):
            original_paths = [TOKENIZER1_PATH, TOKENIZER2_PATH]
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
