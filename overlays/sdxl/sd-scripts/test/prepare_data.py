"""Check the images and captions of a run before it starts; the last lines printed are the folder to train from and how
the files of its captions end.

    python prepare_data.py FOLDER CAPTION_EXTENSION WORK

FOLDER holds images with captions beside them (00.jpg, 00.txt): right there, in sub-folders, in sub-folders named
<repeats>_<class>, or in the tars that img2dataset writes (with .parquet and _stats.json, which are not needed). Tars
are unpacked once, to WORK/<folder>-<digest of what is unpacked>. With the extension .json captions are read from the
`caption` of img2dataset's files, into .txt files beside links to the images. Standard library only. One line on stderr,
nothing on stdout, and status 1 where it cannot be.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from library.data_folders import IMAGES, counts_repeats, images, places


def digest_of(*what: object) -> str:
    """Eight hex digits by which other sources have another name."""
    return hashlib.sha256(repr(what).encode()).hexdigest()[:8]


def unpack(tars: list[Path], extension: str, work: Path) -> Path:
    """The images and captions of some tars, a folder a tar, in a folder of ``work`` that is there whole or not at all.
    Other tars, tars that have changed and another extension get a folder of their own.

    Raises OSError, naming the tar."""
    sources = [(str(place.resolve()), place.stat().st_size, place.stat().st_mtime_ns) for place in tars]
    target = work / f"{tars[0].parent.resolve().name}-{digest_of(sources, extension)}"
    if target.is_dir():
        return target
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(work)) as name:
        for place in tars:
            folder = Path(name, "new", place.stem)
            folder.mkdir(parents=True)
            try:
                with tarfile.open(str(place)) as tar:
                    for member in tar:
                        path = PurePosixPath(member.name)
                        content = tar.extractfile(member) if member.isfile() else None
                        if content and path.suffix.lower() in {*IMAGES, extension}:  # nothing but its last name is used
                            with (folder / path.name).open("wb") as file:
                                shutil.copyfileobj(content, file)
            except (tarfile.TarError, OSError) as error:
                raise OSError(f"{place}: {str(error).splitlines()[0]}") from None
        try:
            Path(name, "new").rename(target)
        except OSError:
            if not target.is_dir():  # another process was first
                raise
    return target


def with_texts(folder: Path, work: Path) -> Path:
    """A folder of links to the images, each with the `caption` of the .json beside it as a .txt. Raises OSError, naming
    the file that has none."""
    found = [file for place in places(folder) for file in images(place)]
    sources = [(str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in found]
    captions = [file.with_suffix(".json") for file in found if file.with_suffix(".json").is_file()]
    stamps = [(str(place), place.stat().st_mtime_ns) for place in captions]
    target = work / f"{folder.resolve().name}-{digest_of(sources, stamps)}"
    if target.is_dir():
        return target
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=str(work)) as name:
        made = Path(name, "new")
        for file in found:
            link = made / file.relative_to(folder)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(file.resolve())
        for place in captions:
            text = made / place.relative_to(folder).with_suffix(".txt")
            text.write_text(caption_in(place), encoding="utf-8")
        made.mkdir(exist_ok=True)
        made.rename(target)
    return target


def caption_in(place: Path) -> str:
    """The caption in one of img2dataset's .json files. Raises OSError where there is none."""
    try:
        caption = json.loads(place.read_text(encoding="utf-8"))["caption"]
    except (ValueError, KeyError, TypeError) as error:
        what = "no caption in it" if isinstance(error, (KeyError, TypeError)) else f"not JSON: {error}"
        raise OSError(f"{place}: {what}: img2dataset writes one") from None
    return str(caption or "")


def check(folder: Path, extension: str) -> tuple[str, str]:
    """What is in ``folder`` and its sub-folders, in a line, and what is wrong with it, "" where nothing is."""
    found = [file for place in places(folder) for file in images(place)]
    if not found:
        return "", f"no images in {folder} or its sub-folders ({', '.join(sorted(IMAGES))})"
    named = {place for place in places(folder)[1:] if counts_repeats(place.name)}
    bare = [file for file in found if not file.with_suffix(extension).is_file() and file.parent not in named]
    if len(bare) == len(found):
        return "", f"no caption beside any image: {bare[0].with_suffix(extension)} is missing; see --caption_extension"
    if named and any(file.parent not in named for file in found):
        lost = next(file for file in found if file.parent not in named)
        return "", f"{lost}: beside folders named <repeats>_<class> it would be left out: put it into one of them"
    lacking = f", {len(bare)} without a caption, such as {bare[0]}" if bare else ""
    return f"Data set : {len(found)} images{lacking}", ""


def unreadable(folder: Path, extension: str) -> str:
    """Say which file of captions is not UTF-8, as upstream reads it; "" where all are."""
    for place in places(folder):
        for file in images(place):
            caption = file.with_suffix(extension)
            try:
                _ = caption.read_text(encoding="utf-8") if caption.is_file() else ""
            except UnicodeDecodeError as error:
                return f"{caption}: not UTF-8 (byte 0x{error.object[error.start]:02x}): save it as UTF-8"
    return ""


def main(name: str, extension: str, work: str) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return f"no folder {name} (from {Path.cwd()}): give the folder of the images, or of the tars they are in"
    if not extension.startswith(".") or "/" in extension or extension == ".":
        return f"captions in files that end in '{extension}': give --caption_extension with its dot, such as .txt"
    tars = sorted(file for file in folder.glob("*.tar") if file.is_file())
    try:
        place = unpack(tars, extension, Path(work)) if tars else folder
        if extension == ".json":
            place, extension = with_texts(place, Path(work)), ".txt"
        summary, problem = check(place, extension)
        problem = problem or unreadable(place, extension)
    except OSError as error:
        return str(error)
    if not problem:
        print(summary)
        print(place.resolve())
        print(extension)
    return problem


if __name__ == "__main__":
    fault = main(*sys.argv[1:4])
    if fault:
        sys.exit(fault)
