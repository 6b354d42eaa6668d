"""overlays/shared/check_data.py: what a local data set may look like, and what is said of those that may not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from launching import OVERLAYS

LLAMA = '{"file_name": "00.jpg", "prompt": "a llama"}\n'


def check(files: dict[str, str], tmp_path: Path, caption: str = "prompt") -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "my data"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return subprocess.run(
        [sys.executable, OVERLAYS / "shared/check_data.py", folder, caption], capture_output=True, text=True
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
        {"data/train-00000-of-00001.parquet": ""},
    ],
)
def test_good(files, tmp_path):
    done = check(files, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_captions_may_be_left_out(tmp_path):
    assert check({"00.jpg": ""}, tmp_path, caption="").returncode == 0


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
