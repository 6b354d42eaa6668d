"""The data of an SDXL run: every layout it takes, and one line for what it does not."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from launching import OVERLAYS

SCRIPT = OVERLAYS / "sdxl/sd-scripts/test/prepare_data.py"


def write(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def archive(place: Path, *names: str) -> None:
    with tarfile.open(place, "w") as tar:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(name)
            tar.addfile(entry, io.BytesIO(name.encode()))


def prepare(folder: Path, work: Path, extension: str = ".txt") -> tuple[int, list[str], str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), extension, str(work)], capture_output=True, text=True
    )
    return done.returncode, done.stdout.splitlines(), done.stderr.strip()


@pytest.mark.parametrize(
    "names",
    [
        ["00.jpg", "00.txt"],
        ["10_cat/00.png", "10_cat/00.txt"],
        ["10_cat/00.png"],
        ["00000/000000000.jpg", "00000/000000000.txt", "00000/000000000.json"],
    ],
    ids=["flat", "repeats", "the folder's name is the caption", "shards that are folders"],
)
def test_folders(names: list[str], tmp_path: Path) -> None:
    status, out, err = prepare(write(tmp_path / "data", *names), tmp_path / "unpacked")
    assert (status, err) == (0, "")
    assert out == ["Data set : 1 images", str(tmp_path / "data"), ".txt"]
    assert not (tmp_path / "unpacked").exists()


def test_tars_are_unpacked_once(tmp_path: Path) -> None:
    data, work = write(tmp_path / "laion", "00000.parquet", "00000_stats.json"), tmp_path / "unpacked"
    archive(data / "00000.tar", "a/000000000.jpg", "000000000.txt", "000000000.json", "../../out.jpg", "/abs.png")
    status, out, err = prepare(data, work)
    assert (status, err) == (0, "")
    place = Path(out[-2])
    assert place.parent == work and place.name.startswith("laion-")
    assert sorted(path.name for path in (place / "00000").iterdir()) == [
        "000000000.jpg",
        "000000000.txt",
        "abs.png",
        "out.jpg",
    ]
    assert not (tmp_path.parent / "out.jpg").exists()
    (place / "00000/kept").touch()
    assert prepare(data, work)[1] == out
    assert (place / "00000/kept").exists() and list(work.iterdir()) == [place]


def test_other_tars_are_not_taken_for_the_ones_that_were_unpacked(tmp_path: Path) -> None:
    """One more tar, another extension, another folder of the same name: each is unpacked anew."""
    work, found = tmp_path / "unpacked", []
    for folder in (tmp_path / "one/laion", tmp_path / "two/laion"):
        write(folder, "00000_stats.json")
        archive(folder / "00000.tar", "00.jpg", "00.txt", "00.caption")
        found.append(prepare(folder, work))
    found.append(prepare(tmp_path / "one/laion", work, ".caption"))
    archive(tmp_path / "one/laion/00001.tar", "01.jpg", "01.txt")
    found.append(prepare(tmp_path / "one/laion", work))
    assert [status for status, _, _ in found] == [0] * 4, found
    assert len({out[-2] for _, out, _ in found}) == 4
    assert [out[0] for _, out, _ in found] == ["Data set : 1 images"] * 3 + ["Data set : 2 images"]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no images in"),
        (["00.txt"], "no images in"),
        (["00.jpg", "00.caption"], "00.txt is missing; see --caption_extension"),
        (["00.jpg", "00.txt", "10_cat/01.jpg"], "00.jpg: beside folders named <repeats>_<class>"),
        (["00.jpg", "00.txt", "10/01.jpg"], "00.jpg: beside folders named <repeats>_<class>"),
    ],
    ids=["empty", "captions alone", "another extension", "beside repeats", "beside repeats without a class"],
)
def test_what_cannot_be(names: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    status, out, err = prepare(write(tmp_path / "data", *names), tmp_path / "unpacked")
    assert (status, out) == (1, [])
    assert said in err and "\n" not in err


@pytest.mark.parametrize("extension", ["txt", "", ".", "./txt"])
def test_what_is_no_extension(extension: str, tmp_path: Path) -> None:
    status, _, err = prepare(write(tmp_path / "data", "00.jpg", "00.txt"), tmp_path / "unpacked", extension)
    assert status == 1
    assert "give --caption_extension with its dot, such as .txt" in err and "\n" not in err


def test_a_broken_tar(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "00000.tar")
    status, _, err = prepare(data, tmp_path / "unpacked")
    assert status == 1
    assert f"{data / '00000.tar'}: " in err and "\n" not in err
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_no_folder(tmp_path: Path) -> None:
    status, _, err = prepare(tmp_path / "none", tmp_path / "unpacked")
    assert (status, "no folder" in err) == (1, True)


def test_captions_of_img2dataset_are_read(tmp_path: Path) -> None:
    """Used as text, the whole file would be the caption: braces, URLs and all."""
    data, work = write(tmp_path / "data", "00000/0.jpg"), tmp_path / "unpacked"
    (data / "00000/0.json").write_text('{"caption": "a red fox", "url": "https://x"}')
    status, out, err = prepare(data, work, ".json")
    assert (status, err, out[0], out[2]) == (0, "", "Data set : 1 images", ".txt")
    assert (Path(out[1]) / "00000/0.txt").read_text() == "a red fox"
    assert (Path(out[1]) / "00000/0.jpg").resolve() == data / "00000/0.jpg"
    assert prepare(data, work, ".json")[1] == out
    (data / "00000/0.json").write_text('{"url": "https://x"}')
    status, _, err = prepare(data, work, ".json")
    assert (status, "0.json: no caption in it" in err) == (1, True)


def test_captions_in_the_wrong_encoding_are_named(tmp_path: Path) -> None:
    data = write(tmp_path / "data", "00.jpg")
    (data / "00.txt").write_bytes("café".encode("latin-1"))
    status, _, err = prepare(data, tmp_path / "unpacked")
    assert (status, "00.txt: not UTF-8 (byte 0xe9): save it as UTF-8" in err) == (1, True)
