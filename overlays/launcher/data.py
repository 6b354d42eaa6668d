"""Local data sets: every row has its image, every image its row or caption, and every image can be opened.

What a folder of images looks like is said by datasets' ImageFolder: metadata.jsonl or metadata.csv beside the images,
with file_name and the captions. Of images alone upstream's DreamBoothDataset opens every entry of the folder, hidden
ones too (examples/dreambooth/train_dreambooth_sd3.py at 5f724735). pyarrow and PIL are used where they are there.
"""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from launcher.mistake import Mistake
from launcher.output import say

IMAGES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
TABLES = {".parquet", ".arrow", ".zip", ".tar"}  # data sets of another kind, which hold their images
SECONDS = 60  # so long images are opened; what is left then is said
NONE: Mapping[str, str] = {}
AT_ONCE = 256  # images opened between two looks at the clock


def text(path: Path) -> str:
    """A file of captions. Raises Mistake, with the line, where it is not UTF-8."""
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise Mistake(f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}): save it as UTF-8") from None


def open_all(paths: Sequence[Path], seconds: float = SECONDS) -> str:
    """Open every image as the training will, and say in one line what is wrong with the first that cannot be: empty, no
    image, cut short, CMYK; "" where nothing is. Says how far it got where that takes longer than ``seconds``."""
    began = shown = time.monotonic()
    workers = max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4))
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), AT_ONCE):
            some = paths[start : start + AT_ONCE]
            wrong = [(path, problem) for path, problem in zip(some, pool.map(_problem, some)) if problem]
            if wrong:
                path, problem = wrong[0]
                return f"{path} {problem}" + (f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else "")
            done, now = start + len(some), time.monotonic()
            if now - began > seconds and done < len(paths):
                say(f"Data set : {done} of {len(paths)} images opened in {seconds:.0f} s; the rest was not")
                return ""
            if now - shown > 5:
                say(f"Data set : {done} of {len(paths)} images opened")
                shown = now
    return ""


@lru_cache
def _pil() -> Any:
    """PIL's Image, None where it is not there."""
    try:
        from PIL import Image
    except ImportError:
        return None
    return Image


def _problem(path: Path) -> str:
    """What is wrong with an image, "" where nothing is; without PIL only whether it is there."""
    try:
        if path.stat().st_size == 0:
            return "is empty: remove it, or copy it again"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if not _pil():
        return ""
    try:
        with _pil().open(path) as image:
            if image.mode == "CMYK":
                return "is CMYK, whose colours would be trained wrong: convert it to RGB"
            image.draft("RGB", (64, 64))  # a JPEG is decoded small, but to its end
            image.load()
    except Exception as error:  # PIL's decoders raise whatever they stumble over
        what = "is no image" if "identify" in str(error) else "cannot be opened"
        return f"{what}: {' '.join(str(error).split()).replace(str(path), path.name)}"
    return ""


def rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row) of a metadata file. Raises Mistake where a line is not a row."""
    said = text(path)
    if path.suffix == ".csv":
        csv.field_size_limit(len(said) + 1)
        reader = csv.DictReader(io.StringIO(said, newline=""))
        try:
            for row in reader:
                if None in row:
                    more = 'more values than columns: put a caption with commas in "quotes"'
                    raise Mistake(f"{path}:{reader.line_num}: {more}")
                yield reader.line_num, row
        except csv.Error as error:
            raise Mistake(f"{path}:{reader.line_num}: not CSV: {error}") from None
        return
    for number, line in enumerate(said.split("\n"), 1):  # a caption may hold U+2028 and the like
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise Mistake(f"{path}:{number}: not JSON: {error}") from None
            if not isinstance(row, dict):
                raise Mistake(f"{path}:{number}: not a JSON object")
            yield number, row


def described(folder: Path) -> tuple[list[Path], list[Path], set[str]]:
    """The files below ``folder`` but for hidden ones, the metadata files among them, and their suffixes."""
    files = []
    for place, folders, names in os.walk(str(folder)):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(place, name) for name in sorted(names) if not name.startswith(".")]
    metadata = [path for path in files if path.name in ("metadata.jsonl", "metadata.csv")]
    return files, metadata, {path.suffix.lower() for path in files}


def are_alone(folder: Path) -> bool:
    """Whether there are images in ``folder`` and nothing with captions."""
    _, metadata, suffixes = described(folder)
    return bool(not metadata and not suffixes & TABLES and suffixes & IMAGES)


def complaint_of_images(folder: Path) -> str:
    """Say in one line why ``folder`` is not one of images alone; "" when it is. Raises OSError."""
    _, metadata, suffixes = described(folder)
    if metadata or suffixes & TABLES:
        return f"{folder} is more than images: give it as --dataset_name"
    entries = sorted(folder.iterdir())
    if not entries:
        return f"no images in {folder}: give the folder they are in"
    strays = [path for path in entries if not path.is_file() or path.suffix.lower() not in IMAGES]
    if not strays:
        return open_all(entries)
    more = f" (and {len(strays) - 1} more)" if len(strays) > 1 else ""
    return f"{strays[0]} is no image{more}: all that is in the folder is opened as one, so move it out"


def columns_of_tables(folder: Path, tables: list[Path]) -> tuple[Path, list[str]]:
    """The columns of Parquet files, and where they are said: in the first file where pyarrow is there, else in the
    dataset_infos.json of ``folder``; none where neither says. Raises OSError, ValueError."""
    for each in tables:
        with each.open("rb") as file:
            if file.read(4) != b"PAR1":
                raise ValueError(f"{each}: not Parquet; is it a Git LFS pointer? Download the file itself")
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


def count(folder: Path) -> int | None:
    """How many images a data set that passed the check has, at most; None where that is not known: of
    tables, without pyarrow, or of another kind than Parquet."""
    files, metadata, suffixes = described(folder)
    if metadata:
        return sum(1 for path in metadata for _ in rows(path))
    if not suffixes & TABLES:
        return sum(path.suffix.lower() in IMAGES for path in files)
    try:
        from pyarrow import parquet

        tables = [path for path in files if path.suffix.lower() in TABLES]
        return sum(int(parquet.read_metadata(path).num_rows) for path in tables)
    except (ImportError, AttributeError, OSError, ValueError):  # pyarrow's own errors are of these
        return None


def complaint(folder: Path, caption: str, pictures: Mapping[str, str] = NONE) -> str:
    """Say in one line what is wrong with the data set in ``folder``; "" when nothing is. ``pictures`` are the columns
    of images, by setting, where the training script takes them by name. Raises OSError, ValueError."""
    files, metadata, suffixes = described(folder)
    if not metadata:
        if suffixes & TABLES:
            said_in, columns = columns_of_tables(folder, [path for path in files if path.suffix.lower() == ".parquet"])
            missing = missing_column(said_in, columns, caption) if columns else ""
            return missing or (missing_picture(said_in, columns, pictures) if columns else "")
        if suffixes & IMAGES and not caption:
            return missing_picture(folder, ["image"], pictures)
        if not suffixes & IMAGES and (folder / "dataset_infos.json").is_file():
            return f"no .parquet in {folder}, though it has a dataset_infos.json: download its data folder too"
        if not suffixes & IMAGES:
            return f"no images and no metadata.jsonl in {folder}: give the folder they are in"
        line = json.dumps({"file_name": "00.jpg", caption: "..."})
        return (
            f"no metadata.jsonl in {folder}: add it, a line an image such as {line}, "
            "or give --caption_column= to use --instance_prompt for all"
        )
    named: set[str] = set()
    for path in metadata:
        problem = complaint_of_rows(path, caption, named, pictures)
        if problem:
            return problem
    images = [path for path in files if path.suffix.lower() in IMAGES]
    bare = [path for path in images if os.path.normpath(path) not in named]
    if bare:
        where = f"{metadata[0]}: no row for {bare[0].relative_to(folder)}"
        return f"{where} ({len(bare)} of {len(images)} images have none): add it, or move the image out"
    return open_all(images)


def complaint_of_rows(path: Path, caption: str, named: set[str], pictures: Mapping[str, str] = NONE) -> str:
    """Say in one line what is wrong with a metadata file, and add the images it names to ``named``.

    datasets makes a column `image` of file_name, and a column of images X of every X_file_name. file_name must come
    before those, or it is taken for the first of them (3.6.0, folder_based_builder.py, `set_feature`)."""
    columns: list[str] = []
    missing: list[tuple[int, str]] = []
    count = 0
    for number, row in rows(path):
        count += 1
        columns += [key for key in row if key not in columns]
        files = [key for key in row if key == "file_name" or key.endswith("_file_name")]
        if pictures and "file_name" in files[1:]:
            return f"{path}:{number}: file_name comes after {files[0]}: put it first, datasets mixes them up"
        names: list[Any] = (
            [row[key] for key in files] if pictures else [row.get("file_name") or row.get("image_file_name")]
        )
        if not names or not all(isinstance(name, str) for name in names):
            return (
                f"{path}:{number}: no {'file_name' if not names or not pictures else ' or no '.join(files)} in this row"
            )
        for name in map(str, names):
            place = os.path.join(str(path.parent), name)
            if not os.path.isfile(place):
                missing.append((number, name))
            named.add(os.path.normpath(place))
        if caption and not isinstance(row.get(caption), (str, type(None))):
            return f"{path}:{number}: {caption} is not text: {row[caption]!r}"
    if not count:
        return f"{path}: empty, a line an image was expected"
    if missing:
        number, name = missing[0]
        return f"{path}:{number}: no image {name} beside it ({len(missing)} of {count} are missing)"
    made = [key[: -len("_file_name")] or "image" for key in columns if f"_{key}".endswith("_file_name")]
    texts = sorted(key for key in columns if not (pictures and key.endswith("_file_name")) and key != "file_name")
    return missing_column(path, texts, caption) or missing_picture(path, made, pictures)


def missing_picture(path: Path, columns: Sequence[str], pictures: Mapping[str, str]) -> str:
    """Say which of ``pictures``, columns of images by setting, is not among the ``columns``; "" where all are."""
    for option, name in pictures.items():
        if name not in columns:
            way = "" if path.suffix == ".parquet" else "; of a NAME_file_name in each row datasets makes a column NAME"
            there = ", ".join(columns)
            return f"{path}: no column {name} of images; there is: {there}; choose with --{option}{way}"
    return ""


def missing_column(path: Path, columns: list[str], caption: str) -> str:
    """Say that ``caption`` is not one of the columns ``path`` has; "" where it is, or none is wanted."""
    if not caption or caption in columns:
        return ""
    there = ", ".join(columns) or "none but file_name"
    return f"{path}: no column {caption} for the captions; there is: {there}; choose with --caption_column"


def check(option: str, folder: str, captions: str, kind: str = "", pictures: Mapping[str, str] = NONE) -> str:
    """What a local folder is: `images` alone, or a `dataset` with captions; ``kind``, which of the two it must be;
    ``pictures``, its columns of images by setting. Raises Mistake, in the words of the setting ``option``."""
    place = Path(folder)
    try:
        alone = kind == "images" or (kind == "" and are_alone(place))
        problem = complaint_of_images(place) if alone else complaint(place, captions, pictures)
    except Mistake as mistake:
        problem = str(mistake)
    except (OSError, ValueError) as error:
        problem = " ".join(str(error).split())
    if problem:
        raise Mistake(f"--{option}: {problem}")
    return "images" if alone else "dataset"
