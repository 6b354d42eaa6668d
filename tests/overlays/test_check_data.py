"""overlays/launcher/data.py: what a local data set may look like, and what is said of those that may not."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from launcher import data
from launcher.mistake import Mistake
from launching import OVERLAYS

LLAMA = '{"file_name": "00.jpg", "prompt": "a llama"}\n'


# As the launcher does: one line and exit status 2 for a mistake, else what the data set is.
CHECK = """
import sys
from launcher import data
from launcher.mistake import Mistake
folder, *given = sys.argv[1:]
kind = "images" if not given else "" if given[1:] == ["either"] else "dataset"
try:
    found = data.check("x", folder, given[0] if given else "", kind)
except Mistake as mistake:
    sys.exit(print(str(mistake).replace("--x: ", "", 1), file=sys.stderr) or 2)
print("images") if found == "images" else None
"""
ALONE = ()  # how it is asked for images alone
POKEMON = {"dataset_infos.json": '{"default": {"features": {"image": {}, "text": {}}}}', "README.MD": ""}
MISSING = "raise ImportError"
# What is used of the libraries a training environment has: the schema of a Parquet file is what follows its first line,
# an image is a file that begins as a JPEG does.
PYARROW = """
class parquet:
    class read_schema:
        def __init__(self, path):
            first, _, rest = open(path).read().partition("\\n")
            if not rest:
                raise ValueError("no footer")
            self.names = rest.split()
"""
PIL = """
class Image:
    mode = "RGB"
    def open(path):
        if not open(path).read().startswith("JPEG"):
            raise OSError("cannot identify image file")
        return Image()
    def draft(self, mode, size): pass
    def load(self): pass
    def __enter__(self): return self
    def __exit__(self, *error): pass
"""


def check(
    files: dict[str, str],
    tmp_path: Path,
    arguments: tuple[str, ...] = ("prompt",),
    pyarrow: str = MISSING,
    pil: str = MISSING,
) -> subprocess.CompletedProcess[str]:
    """Check a folder of these files where the libraries are these."""
    for name, text in {"pyarrow": pyarrow, "PIL": pil}.items():
        (tmp_path / f"modules/{name}").mkdir(parents=True)
        (tmp_path / f"modules/{name}/__init__.py").write_text(text)
    folder = tmp_path / "my data"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        is_image = Path(name).suffix in (".jpg", ".png")
        (folder / name).write_text(text or "JPEG" * is_image, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-c", CHECK, folder, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path / "modules"), str(OVERLAYS)))},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "files",
    [
        {"metadata.jsonl": LLAMA, "00.jpg": "", "README.MD": "", "gitattributes": ""},
        {"metadata.jsonl": "\ufeff" + LLAMA + "\n", "00.jpg": ""},
        {"metadata.jsonl": '{"file_name": "a/00.jpg", "prompt": null}\n{"file_name": "b.png", "prompt": "b"}\n'}
        | {"a/00.jpg": "", "b.png": ""},
        {"train/metadata.jsonl": LLAMA, "train/00.jpg": ""},
        {"metadata.csv": 'file_name,prompt\n00.jpg,"a llama, eating"\n', "00.jpg": ""},
        {"metadata.jsonl": '{"image_file_name": "00.jpg", "prompt": "a"}\n', "00.jpg": ""},
        {"data/train-00000-of-00001.parquet": "PAR1"},
        {"data/train-00000-of-00001.arrow": ""},
    ],
)
def test_good(files, tmp_path):
    done = check(files, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_captions_may_be_left_out(tmp_path):
    done = check({"00.jpg": ""}, tmp_path, ("",))
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"^no images and no metadata.jsonl in .*/my data: "),
        ({"config.json": "{}"}, r"^no images and no metadata.jsonl"),
        ({"00.jpg": ""}, r'^no metadata.jsonl in .*/my data: add it, .*{"file_name": "00.jpg", "prompt": "..."}'),
        ({"metadata.jsonl": ""}, r"metadata.jsonl: empty"),
        ({"metadata.jsonl": LLAMA}, r"metadata.jsonl:1: no image 00.jpg beside it \(1 of 1 are missing\)"),
        ({"metadata.jsonl": LLAMA + "{oops\n", "00.jpg": ""}, r"metadata.jsonl:2: not JSON: "),
        ({"metadata.jsonl": "[1]\n"}, r"metadata.jsonl:1: not a JSON object"),
        ({"metadata.jsonl": '{"prompt": "a"}\n'}, r"metadata.jsonl:1: no file_name in this row"),
        ({"metadata.jsonl": LLAMA.replace("prompt", "text"), "00.jpg": ""}, r"no column prompt .*; there is: text; "),
        ({"metadata.jsonl": '{"file_name": "0.jpg"}\n', "0.jpg": ""}, r"no column prompt .*: none but file_name; "),
        ({"metadata.jsonl": '{"file_name": "0.jpg", "prompt": 7}\n', "0.jpg": ""}, r":1: prompt is not text: 7"),
        ({"metadata.csv": "file_name,text\n0.jpg,a\n", "0.jpg": ""}, r"metadata.csv: no column prompt"),
    ],
)
def test_mistakes_are_one_line(files, message, tmp_path):
    done = check(files, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1


def test_hidden_folders_do_not_count(tmp_path):
    """The hub's own downloads leave a .cache with metadata beside the images."""
    done = check({"metadata.jsonl": LLAMA, "00.jpg": "", ".cache/hub/metadata.jsonl": "oops"}, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


TABLE = {"data/train-001.parquet": "PAR1\nimage text"}


@pytest.mark.parametrize("pyarrow", [MISSING, PYARROW])
@pytest.mark.parametrize("arguments", [("text",), ("text", "either"), ("",)])
def test_good_tables(arguments, pyarrow, tmp_path):
    done = check(POKEMON | TABLE, tmp_path, arguments, pyarrow=pyarrow)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("files", "pyarrow", "message"),
    [
        (POKEMON | TABLE, MISSING, r"dataset_infos.json: no column prompt .*; there is: image, text; choose with"),
        (POKEMON | TABLE, PYARROW, r"train-001.parquet: no column prompt .*; there is: image, text; choose with"),
        (POKEMON, MISSING, r"^no .parquet in .*/my data, though it has a dataset_infos.json: download its data folder"),
        (
            {"a.parquet": "version https://git-lfs"},
            PYARROW,
            r"a.parquet: not Parquet; is it a Git LFS",
        ),
        ({"a.parquet": "PAR1"}, PYARROW, r"a.parquet: no footer"),
        (TABLE | {"dataset_infos.json": "[1]"}, MISSING, r"dataset_infos.json: not what datasets writes: "),
        (TABLE | {"dataset_infos.json": "{"}, MISSING, r"dataset_infos.json: not what datasets writes: "),
    ],
)
def test_mistakes_in_tables_are_one_line(files, pyarrow, message, tmp_path):
    done = check(files, tmp_path, ("prompt", "either"), pyarrow=pyarrow)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1


DOG = {"alvan-nee-1.jpeg": "JPEG", "alvan-nee-2.jpeg": "JPEG"}


@pytest.mark.parametrize("pil", [MISSING, PIL])
@pytest.mark.parametrize("arguments", [ALONE, ("text", "either"), ("", "either")])
def test_images_alone(arguments, pil, tmp_path):
    done = check(DOG, tmp_path, arguments, pil=pil)
    assert (done.returncode, done.stdout, done.stderr) == (0, "images\n", "")


@pytest.mark.parametrize(
    ("files", "pil", "arguments", "message"),
    [
        ({}, MISSING, ALONE, r"^no images in .*/my data: give the folder they are in"),
        ({}, MISSING, ("text", "either"), r"^no images and no metadata.jsonl in"),
        ({"notes.txt": ""}, MISSING, ALONE, r"/notes.txt is no image: all that is in the folder is opened as one"),
        (DOG | {"notes.txt": "", "z": ""}, MISSING, ALONE, r"/notes.txt is no image \(and 1 more\)"),
        (DOG | {".cache/huggingface/x": ""}, MISSING, ("text", "either"), r"/my data/.cache is no image"),
        (DOG | {".cache/huggingface/x": ""}, PIL, ALONE, r"/my data/.cache is no image"),
        (DOG | {"more/3.jpeg": "JPEG"}, PIL, ("text", "either"), r"/my data/more is no image"),
        (DOG | {"page.jpeg": "<html>"}, PIL, ALONE, r"/page.jpeg is no image"),
        (POKEMON | TABLE, MISSING, ALONE, r"/my data is more than images: give it as --dataset_name"),
        (DOG | {"metadata.csv": ""}, MISSING, ALONE, r"/my data is more than images: give it as --dataset_name"),
    ],
)
def test_strays_are_named(files, pil, arguments, message, tmp_path):
    done = check(files, tmp_path, arguments, pil=pil)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def picture(kind: str, mode: str = "RGB", part: float = 1.0) -> bytes:
    """The first part of an image of a format, as PIL writes it."""
    image = pytest.importorskip("PIL.Image").effect_noise((64, 64), 50).convert(mode)
    image.save(content := io.BytesIO(), kind)
    return content.getvalue()[: int(len(content.getvalue()) * part)]


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        ("jpg", lambda: picture("JPEG", part=0.6), r"1.jpg cannot be opened: .*truncated"),
        ("png", lambda: picture("PNG", part=0.6), r"1.png cannot be opened: "),
        ("jpg", lambda: picture("JPEG", "CMYK"), r"1.jpg is CMYK, .*: convert it to RGB"),
        ("jpg", lambda: b"<html>not found</html>", r"1.jpg is no image: cannot identify"),
        ("jpg", lambda: b"", r"1.jpg is empty: remove it, or copy it again"),
        ("webp", lambda: picture("WEBP", part=0.3), r"1.webp cannot be opened: |1.webp is no image"),
    ],
)
def test_every_image_is_opened(kind, content, said, place):
    (place / "0.jpg").write_bytes(picture("JPEG"))
    (place / f"1.{kind}").write_bytes(content())
    with pytest.raises(Mistake, match=said):
        data.check("input_dir", str(place), "", "images")
    rows = "".join(json.dumps({"file_name": name, "text": "x"}) + "\n" for name in ("0.jpg", f"1.{kind}"))
    (place / "metadata.jsonl").write_text(rows)
    with pytest.raises(Mistake, match=said):
        data.check("dataset_name", str(place), "text", "dataset")


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "1"])
def test_what_training_converts_is_good(mode, place):
    (place / "0.png").write_bytes(picture("PNG", mode))
    assert data.check("input_dir", str(place), "", "images") == "images"


def test_an_image_without_a_row_is_named(place):
    for name in ("0.jpg", "more/1.jpg"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(picture("JPEG"))
    (place / "metadata.jsonl").write_text('{"file_name": "0.jpg", "text": "x"}\n')
    said = r"metadata.jsonl: no row for more/1.jpg \(1 of 2 images have none\): add it, or move the image out"
    with pytest.raises(Mistake, match=said):
        data.check("dataset_name", str(place), "text", "dataset")


def test_metadata_in_the_wrong_encoding_is_named(place):
    (place / "metadata.jsonl").write_bytes('{"file_name": "0.jpg"}\n{"text": "café"}\n'.encode("latin-1"))
    with pytest.raises(Mistake, match=r"metadata.jsonl:2: not UTF-8 \(byte 0xe9\): save it as UTF-8"):
        data.check("dataset_name", str(place), "text", "dataset")


def test_a_very_large_set_is_opened_for_a_while_and_that_is_said(place, capsys, monkeypatch):
    monkeypatch.setattr(data, "AT_ONCE", 1)
    paths = [place / f"{number}.jpg" for number in range(3)]
    for path in paths:
        path.write_bytes(picture("JPEG"))
    assert data.open_all(paths, seconds=0) == ""
    assert capsys.readouterr().out == "Data set : 1 of 3 images opened in 0 s; the rest was not\n"


def test_old_pythons_read_it():
    """Launch scripts run it with the Python of the training environment; a source document has 3.8."""
    for path in (OVERLAYS / "launcher").rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 8))
