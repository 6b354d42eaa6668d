"""Train from folders whose names carry no repeat count."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "image folders without repeat counts"
WHY = """\
kohya's DreamBooth layout wants sub-folders named `<repeats>_<class>` and ignores everything else: a flat folder of
images with captions is "No data found", and the folders that img2dataset writes are twelve repeats (00012), or none
(00000). Where no sub-folder has a repeat count, each folder with images is taken as it is (library/data_folders.py,
overlay)."""
LINKS = ()
NEEDS = ("base_dir", "is_reg")

sites, edits = table(
    Put(
        "generate_dreambooth_subsets_config_by_subdirs.generate",
        "subsets_config = []",
        """
        from library.data_folders import has_repeats, plain_subsets

        if not has_repeats(base_dir):
            return plain_subsets(base_dir, is_reg)
        """,
        how="before",
    ),
)
