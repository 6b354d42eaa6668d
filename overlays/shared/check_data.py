"""Check a local data set before anything starts: one line on stderr and exit 2, or nothing and exit 0.

Arguments: the folder, and the column with the captions ("" for none). The launch script carries it, so it uses
the standard library only. What a folder of images looks like is said by datasets' ImageFolder: metadata.jsonl or
metadata.csv beside the images, with file_name and the captions.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TABLES = {".parquet", ".arrow", ".zip", ".tar"}  # data sets of another kind, which hold their images


def rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield (line number from 1, row) of a metadata file. Raises ValueError where a line is not a row."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        if path.suffix == ".csv":
            reader = csv.DictReader(lines)
            for row in reader:
                yield reader.line_num, row
            return
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}:{number}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise ValueError(f"{path}:{number}: not a JSON object")
                yield number, row


def complaint(folder: Path, caption: str) -> str:
    """Say in one line what is wrong with the data set in ``folder``; "" when nothing is. Raises OSError, ValueError."""
    files = [path for path in sorted(folder.rglob("*")) if "/." not in f"/{path.relative_to(folder).as_posix()}"]
    metadata = [path for path in files if path.name in ("metadata.jsonl", "metadata.csv")]
    suffixes = {path.suffix.lower() for path in files}
    if not metadata:
        if suffixes & TABLES or (suffixes & IMAGES and not caption):
            return ""
        if not suffixes & IMAGES:
            return f"no images and no metadata.jsonl in {folder}: give the folder they are in"
        line = json.dumps({"file_name": "00.jpg", caption: "..."})
        return (
            f"no metadata.jsonl in {folder}: add it, a line an image such as {line}, "
            "or give --caption_column= to use --instance_prompt for all"
        )
    for path in metadata:
        columns: set[str] = set()
        missing, count = [], 0
        for number, row in rows(path):
            count += 1
            columns |= set(row)
            name = row.get("file_name") or row.get("image_file_name")
            if not isinstance(name, str):
                return f"{path}:{number}: no file_name in this row"
            if not (path.parent / name).is_file():
                missing.append((number, name))
            if caption and not isinstance(row.get(caption), (str, type(None))):
                return f"{path}:{number}: {caption} is not text: {row[caption]!r}"
        if not count:
            return f"{path}: empty, a line an image was expected"
        if missing:
            number, name = missing[0]
            return f"{path}:{number}: no image {name} beside it ({len(missing)} of {count} are missing)"
        if caption and caption not in columns:
            there = ", ".join(sorted(columns - {"file_name"})) or "none but file_name"
            return f"{path}: no column {caption} for the captions; there is: {there}; choose with --caption_column"
    return ""


if __name__ == "__main__":
    try:
        problem = complaint(Path(sys.argv[1]), sys.argv[2])
    except (OSError, ValueError) as error:
        problem = str(error)
    if problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
