"""Check a local data set before anything starts: one line on stderr and exit 2, or exit 0.

    check_data.py FOLDER CAPTION           a data set for --dataset_name; CAPTION: the captions' column, "" for none
    check_data.py FOLDER                   images alone, for --instance_data_dir
    check_data.py FOLDER CAPTION either    the one or the other: prints "images" where it is images alone

The launch script carries it, so it needs the standard library only; pyarrow and PIL are used where they are there. What
a folder of images looks like is said by datasets' ImageFolder: metadata.jsonl or metadata.csv beside the images, with
file_name and the captions. Of images alone upstream's DreamBoothDataset opens every entry of the folder, hidden ones
too (examples/dreambooth/train_dreambooth_sd3.py at 5f724735).
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


def described(folder: Path) -> tuple[list[Path], list[Path], set[str]]:
    """The files below ``folder`` but for hidden ones, the metadata files among them, and their suffixes."""
    files = [path for path in sorted(folder.rglob("*")) if "/." not in f"/{path.relative_to(folder).as_posix()}"]
    metadata = [path for path in files if path.name in ("metadata.jsonl", "metadata.csv")]
    return files, metadata, {path.suffix.lower() for path in files}


def are_alone(folder: Path) -> bool:
    """Whether there are images in ``folder`` and nothing with captions."""
    _, metadata, suffixes = described(folder)
    return bool(not metadata and not suffixes & TABLES and suffixes & IMAGES)


def is_image(path: Path) -> bool:
    """Whether PIL opens it, as upstream will; by its name where PIL is missing."""
    try:
        from PIL import Image
    except ImportError:
        return path.is_file() and path.suffix.lower() in IMAGES
    try:
        with Image.open(path):
            return True
    except OSError:
        return False


def complaint_of_images(folder: Path) -> str:
    """Say in one line why ``folder`` is not one of images alone; "" when it is. Raises OSError."""
    _, metadata, suffixes = described(folder)
    if metadata or suffixes & TABLES:
        return f"{folder} is more than images: give it as --dataset_name"
    entries = sorted(folder.iterdir())
    if not entries:
        return f"no images in {folder}: give the folder they are in"
    strays = [path for path in entries if not is_image(path)]
    if not strays:
        return ""
    more = f" (and {len(strays) - 1} more)" if len(strays) > 1 else ""
    return f"{strays[0]} is no image{more}: all that is in the folder is opened as one, so move it out"


def columns_of_tables(folder: Path, tables: list[Path]) -> tuple[Path, list[str]]:
    """The columns of Parquet files, and where they are said: in the first file where pyarrow is there, else in the
    dataset_infos.json of ``folder``; none where neither says. Raises OSError, ValueError."""
    for path in tables:
        with path.open("rb") as file:
            if file.read(4) != b"PAR1":
                raise ValueError(f"{path}: not Parquet; is it a Git LFS pointer? Download the file itself")
    path = tables[0] if tables else folder / "dataset_infos.json"
    try:
        from pyarrow import parquet

        return path, parquet.read_schema(path).names if tables else []
    except ImportError:
        return folder / "dataset_infos.json", features(folder / "dataset_infos.json")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def features(infos: Path) -> list[str]:
    """The columns that datasets wrote down in dataset_infos.json, none where it is missing. Raises ValueError."""
    try:
        tables = json.loads(infos.read_text(encoding="utf-8")) if infos.is_file() else {}
        return [name for table in tables.values() for name in table.get("features") or ()]
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{infos}: not what datasets writes: {error}") from None


def complaint(folder: Path, caption: str) -> str:
    """Say in one line what is wrong with the data set in ``folder``; "" when nothing is. Raises OSError, ValueError."""
    files, metadata, suffixes = described(folder)
    if not metadata:
        if suffixes & TABLES:
            where, columns = columns_of_tables(folder, [path for path in files if path.suffix.lower() == ".parquet"])
            return missing_column(where, columns, caption) if columns else ""
        if suffixes & IMAGES and not caption:
            return ""
        if not suffixes & IMAGES and (folder / "dataset_infos.json").is_file():
            return f"no .parquet in {folder}, though it has a dataset_infos.json: download its data folder too"
        if not suffixes & IMAGES:
            return f"no images and no metadata.jsonl in {folder}: give the folder they are in"
        line = json.dumps({"file_name": "00.jpg", caption: "..."})
        return (
            f"no metadata.jsonl in {folder}: add it, a line an image such as {line}, "
            "or give --caption_column= to use --instance_prompt for all"
        )
    for path in metadata:
        names: set[str] = set()
        missing, count = [], 0
        for number, row in rows(path):
            count += 1
            names |= set(row)
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
        problem = missing_column(path, sorted(names - {"file_name"}), caption)
        if problem:
            return problem
    return ""


def missing_column(path: Path, columns: list[str], caption: str) -> str:
    """Say that ``caption`` is not one of the columns ``path`` has; "" where it is, or none is wanted."""
    if not caption or caption in columns:
        return ""
    there = ", ".join(columns) or "none but file_name"
    return f"{path}: no column {caption} for the captions; there is: {there}; choose with --caption_column"


if __name__ == "__main__":
    folder, given = Path(sys.argv[1]), sys.argv[2:]
    try:
        images = not given or (given[1:] == ["either"] and are_alone(folder))
        problem = complaint_of_images(folder) if images else complaint(folder, given[0])
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())
    if problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
    if images:
        print("images")
