"""plain-data-folders: image folders without repeat counts."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "plain-data-folders"

APPLIED = [
    case(
        "as in the library",
        """
        def generate_dreambooth_subsets_config_by_subdirs(train_data_dir=None):
            def generate(base_dir, is_reg):
                if base_dir is None:
                    return []

                subsets_config = []
                for subdir in base_dir.iterdir():
                    subsets_config.append(subdir)
                return subsets_config

            subsets_config = []
            subsets_config += generate(train_data_dir, False)
            return subsets_config
        """,
        """
        def generate_dreambooth_subsets_config_by_subdirs(train_data_dir=None):
            def generate(base_dir, is_reg):
                if base_dir is None:
                    return []

                from library.data_folders import has_repeats, plain_subsets

                if not has_repeats(base_dir):
                    return plain_subsets(base_dir, is_reg)

                subsets_config = []
                for subdir in base_dir.iterdir():
                    subsets_config.append(subdir)
                return subsets_config

            subsets_config = []
            subsets_config += generate(train_data_dir, False)
            return subsets_config
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        def generate_dreambooth_subsets_config_by_subdirs(train_data_dir=None):
            def generate(base_dir, is_reg):
                if base_dir is None:
                    return []

                from library.data_folders import has_repeats, plain_subsets

                if not has_repeats(base_dir):
                    return plain_subsets(base_dir, is_reg)

                subsets_config = []
                for subdir in base_dir.iterdir():
                    subsets_config.append(subdir)
                return subsets_config

            subsets_config = []
            subsets_config += generate(train_data_dir, False)
            return subsets_config
        """,
    ),
    gone(
        "ControlNet's",
        """
        def generate_controlnet_subsets_config_by_subdirs():
            def generate(base_dir):
                subsets_config = []
        """,
    ),
    conflict(
        "no is_reg",
        "`is_reg` is not bound",
        3,
        """
        def generate_dreambooth_subsets_config_by_subdirs():
            def generate(base_dir):
                subsets_config = []
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
