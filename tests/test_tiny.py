"""Tiny models from a table: what is refused, and what is handed to the builder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from support import write

from kit import beside
from kit.errors import KitError
from kit.schema import load_toml
from kit.smoke import models

TABLE = """\
pipeline = "FluxPipeline"

[model.vae]
class = "diffusers.AutoencoderKL"

[data.dog]
part = "images_alone"
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python that keeps what the builder is given."""
    text = f'#!/bin/sh\necho "$@" "$PYTHONPATH" > {tmp_path}/argv\ncat > {tmp_path}/given\n'
    return write(tmp_path, {"python*": text}) / "python"


def test_a_table_is_handed_to_the_builder(tmp_path: Path, python: Path) -> None:
    write(tmp_path, {"mine/tiny/bead.toml": TABLE, "mine/tiny/bead.py": "def rod(folder): ...\n"})
    models.build("bead", python, tmp_path / "made", roots=(tmp_path / "mine",))
    given = json.loads((tmp_path / "given").read_text())
    assert given["table"]["model"] == {"vae": {"class": "diffusers.AutoencoderKL"}}
    assert given["known"]["AutoencoderKL"]["latent_channels"] == 4
    assert given["own"] == str(tmp_path / "mine/tiny/bead.py")
    script, folder, path = (tmp_path / "argv").read_text().split()
    assert Path(script).name == "_table.py" and folder == str(tmp_path / "made")
    assert path == str(beside.folders("tiny")[0]), "its own parts find kit's"


def test_ones_own_comes_before_kits(tmp_path: Path, python: Path) -> None:
    write(tmp_path, {"mine/tiny/sdxl.toml": TABLE})
    models.build("sdxl", python, tmp_path / "made", roots=(tmp_path / "mine",))
    assert json.loads((tmp_path / "given").read_text())["own"] == "", "kit's sdxl.py is not of this table"
    models.build("sdxl", python, tmp_path / "made")
    assert json.loads((tmp_path / "given").read_text())["own"].endswith("kit/smoke/tiny/sdxl.py")
    write(tmp_path, {"mine/tiny/bead.py": ""})
    models.build("bead", python, tmp_path / "made", roots=(tmp_path / "mine",))
    assert (tmp_path / "argv").read_text().startswith(f"{tmp_path}/mine/tiny/bead.py "), "a script needs no table"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('pipeline = "FluxPipeline"', "", "bead.toml:1: a tiny model is a pipeline and its components"),
        ('class = "diffusers.AutoencoderKL"', "class = 1", "bead.toml:3: component vae has no class"),
        ('part = "images_alone"', "", "bead.toml:6: data dog has no part"),
    ],
)
def test_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    write(tmp_path, {"tiny/bead.toml": TABLE.replace(old, new)})
    with pytest.raises(KitError) as refused:
        models.build("bead", Path(sys.executable), tmp_path / "made", roots=(tmp_path,))
    assert said in str(refused.value)


def test_tables_of_kit_are_whole() -> None:
    """Each class of kit's configurations is a table of its own; none of kit's own families is called after it."""
    classes = load_toml(beside.folders("tiny")[0] / "_classes.toml")[1]
    assert {"FluxTransformer2DModel", "QwenImageTransformer2DModel"} <= classes.keys()
    assert beside.families() >= {"hidream", "sd", "sd3", "sdxl"} and not beside.families() & classes.keys()
