"""Odd data sets, models and checkpoints: refused in one line where they are wrong, and only there."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
from launcher import data, model
from launcher.mistake import Mistake
from test_launcher_model import OPTION, pickled, saved, tensors, whole

ROW = '{"file_name": "0.jpg", "prompt": "a"}\n'


def problem(folder: Path, files: dict[str, str]) -> str:
    """What is said of a data set with an image 0.jpg and these files, "" where nothing is."""
    folder.mkdir(exist_ok=True)
    (folder / "0.jpg").write_text("an image")
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8", newline="")
    try:
        data.check("d", str(folder), "prompt", "dataset")
    except Mistake as mistake:
        return str(mistake)
    return ""


@pytest.fixture(autouse=True)
def no_pil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_pil", lambda: None)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"metadata.jsonl": '{"file_name": "0.jpg", "prompt": "a\u2028b\x85c"}\n'}, ""),
        ({"metadata.jsonl": ROW.replace("\n", "\r\n")}, ""),
        ({"metadata.csv": 'file_name,prompt\r\n0.jpg,"a\r\nb, c"\r\n'}, ""),
        ({"metadata.csv": f"file_name,prompt\n0.jpg,{'a' * 200_000}\n"}, ""),
        ({"metadata.csv": "file_name,prompt\n0.jpg,a, b\n"}, "metadata.csv:2: more values than columns: put a caption"),
    ],
)
def test_metadata(files: dict[str, str], said: str, tmp_path: Path) -> None:
    found = problem(tmp_path / "d", files)
    assert (said in found) if said else found == ""


def test_a_path_that_goes_up_and_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    problem(tmp_path / "d", {"metadata.jsonl": ROW})
    monkeypatch.chdir(tmp_path)
    assert data.check("d", "d/../d", "prompt", "dataset") == "dataset"


def test_pil_is_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it each of 100,000 images cost an import that failed."""
    monkeypatch.undo()
    asked: list[str] = []

    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "PIL":
                asked.append(name)
                raise ImportError(name)

    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    data._pil.cache_clear()
    for number in range(50):
        (tmp_path / f"{number}.jpg").write_text("x")
    assert data.open_all(sorted(tmp_path.iterdir())) == ""
    data._pil.cache_clear()
    assert 1 <= len(asked) <= 8  # once a thread at most


def test_whatever_a_decoder_raises_is_a_broken_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL's DecompressionBombError is neither an OSError nor a ValueError; nor are struct.error and EOFError."""

    def opened(path: Path) -> None:
        raise EOFError("no more")

    monkeypatch.setattr(data, "_pil", lambda: types.SimpleNamespace(open=opened))
    found = problem(tmp_path / "d", {"metadata.jsonl": ROW})
    assert found.endswith("0.jpg cannot be opened: no more")


# ---- models


def test_an_index_of_the_other_format_is_not_looked_at(tmp_path: Path) -> None:
    """Downloads without *.bin leave pytorch_model.bin.index.json; the .safetensors are what is loaded."""
    folder = whole(tmp_path / "m")
    (folder / "text_encoder/pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "no.bin"}}')
    model.check(OPTION, str(folder))
    (folder / "text_encoder/model.safetensors").unlink()
    with pytest.raises(Mistake, match=r"no no\.bin in .*text_encoder"):
        model.check(OPTION, str(folder))


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_bin_weights_that_are_cut_short(part: float, tmp_path: Path) -> None:
    folder = whole(tmp_path / "m")
    (folder / "text_encoder/model.safetensors").unlink()
    (folder / "text_encoder/pytorch_model.bin").write_bytes(pickled())
    model.check(OPTION, str(folder))
    (folder / "text_encoder/pytorch_model.bin").write_bytes(pickled(part))
    with pytest.raises(Mistake, match=r"pytorch_model\.bin is cut short: download it again"):
        model.check(OPTION, str(folder))


def test_weights_that_only_other_libraries_read(tmp_path: Path) -> None:
    folder = whole(tmp_path / "m")
    for path in (folder / "text_encoder").glob("*.safetensors"):
        path.unlink()
    (folder / "text_encoder/flax_model.msgpack").write_text("x")
    (folder / "text_encoder/model.msgpack").write_text("x")
    with pytest.raises(Mistake, match=r"no weights in .*text_encoder"):
        model.check(OPTION, str(folder))


def test_a_variant_given_as_two_words(tmp_path: Path) -> None:
    folder = whole(tmp_path / "m")
    (folder / "text_encoder/model.safetensors").unlink()
    model.check(OPTION, str(folder), ["--variant", "fp16"])


@pytest.mark.parametrize("header", [b"[]", b"{}x", b'{"x": 1}', b'{"x": {"data_offsets": []}}', b'{"x": null}'])
def test_a_safetensors_file_with_an_odd_header(header: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert not model.is_whole(path)


def test_a_checkpoint_whose_weights_are_cut_anywhere(tmp_path: Path) -> None:
    from launcher import checkpoints

    for part in (0.0, 0.1, 0.3, 0.5, 0.99):
        folder = saved(tmp_path / str(part), 1, pytorch_lora_weights__safetensors=tensors(part))
        assert checkpoints.complaint(folder)
