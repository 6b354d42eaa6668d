"""Check the images and captions of a run before it starts; the folder to train from is the last line printed.

    python prepare_data.py FOLDER CAPTION_EXTENSION WORK

FOLDER holds images with captions beside them (00.jpg, 00.txt): right there, in sub-folders, in sub-folders named
<repeats>_<class>, or in the tars that img2dataset writes (with .parquet and _stats.json, which are not needed). Tars
are unpacked once, to WORK/<folder>. Standard library only. One line on stderr and status 1 where it cannot be.
"""

from __future__ import annotations

import shutil
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}  # what upstream reads (library/train_util.py)


def unpack(tars: list[Path], extension: str, work: Path) -> Path:
    """The images and captions of some tars, a folder a tar, in a folder of ``work`` that is there whole or not at all.

    Raises tarfile.TarError or OSError, naming the tar."""
    target = work / tars[0].parent.resolve().name
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


def check(folder: Path, extension: str) -> str:
    """What is wrong with the images in ``folder`` and its sub-folders; "" where nothing is. Says how many there are."""
    places = [folder, *sorted(each for each in folder.iterdir() if each.is_dir())]
    images = [file for place in places for file in sorted(place.iterdir()) if file.suffix.lower() in IMAGES]
    if not images:
        return f"no images in {folder} or its sub-folders ({', '.join(sorted(IMAGES))})"
    named = {place for place in places[1:] if "_" in place.name and place.name.split("_")[0].isdigit()}
    bare = [file for file in images if not file.with_suffix(extension).is_file() and file.parent not in named]
    if len(bare) == len(images):
        return f"no caption beside any image: {bare[0].with_suffix(extension)} is missing; see --caption_extension"
    if named and any(file.parent not in named for file in images):
        lost = next(file for file in images if file.parent not in named)
        return f"{lost}: beside folders named <repeats>_<class> it would be left out: put it into one of them"
    lacking = f", {len(bare)} without a caption, such as {bare[0]}" if bare else ""
    print(f"Data set : {len(images)} images{lacking}")
    return ""


def main(name: str, extension: str, work: str) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return f"no folder {name} (from {Path.cwd()}): give the folder of the images, or of the tars they are in"
    tars = sorted(file for file in folder.glob("*.tar") if file.is_file())
    try:
        place = unpack(tars, extension, Path(work)) if tars else folder
        problem = check(place, extension)
    except OSError as error:
        return str(error)
    print(place.resolve())
    return problem


if __name__ == "__main__":
    fault = main(*sys.argv[1:4])
    if fault:
        sys.exit(fault)
