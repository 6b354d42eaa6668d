"""Check the images and captions of a run before it starts; the folder to train from is the last line printed.

    python prepare_data.py FOLDER CAPTION_EXTENSION WORK

FOLDER holds images with captions beside them (00.jpg, 00.txt): right there, in sub-folders, in sub-folders named
<repeats>_<class>, or in the tars that img2dataset writes (with .parquet and _stats.json, which are not needed). Tars
are unpacked once, to WORK/<folder>-<digest of what is unpacked>. Standard library only. One line on stderr, nothing on
stdout, and status 1 where it cannot be.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from library.data_folders import IMAGES, counts_repeats, images, places


def unpack(tars: list[Path], extension: str, work: Path) -> Path:
    """The images and captions of some tars, a folder a tar, in a folder of ``work`` that is there whole or not at all.
    Other tars, tars that have changed and another extension get a folder of their own.

    Raises OSError, naming the tar."""
    sources = [(str(place.resolve()), place.stat().st_size, place.stat().st_mtime_ns) for place in tars]
    digest = hashlib.sha256(repr((sources, extension)).encode()).hexdigest()[:8]
    target = work / f"{tars[0].parent.resolve().name}-{digest}"
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


def main(name: str, extension: str, work: str) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return f"no folder {name} (from {Path.cwd()}): give the folder of the images, or of the tars they are in"
    if not extension.startswith(".") or "/" in extension or extension == ".":
        return f"captions in files that end in '{extension}': give --caption_extension with its dot, such as .txt"
    tars = sorted(file for file in folder.glob("*.tar") if file.is_file())
    try:
        place = unpack(tars, extension, Path(work)) if tars else folder
        summary, problem = check(place, extension)
    except OSError as error:
        return str(error)
    if not problem:
        print(summary)
        print(place.resolve())
    return problem


if __name__ == "__main__":
    fault = main(*sys.argv[1:4])
    if fault:
        sys.exit(fault)
