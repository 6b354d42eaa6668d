"""The HiDream LoKr overlay as it is rendered: configurations, and what the launcher refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from launcher import data, simpletuner
from launcher.mistake import Mistake
from support import REPOSITORY, write

from kit import overlay, planning, recipes

OVERLAY = REPOSITORY / "overlays" / "hidream-lokr"
FOUND = recipes.load("hidream-lokr")
SCRIPT = "train_hidream_lokr.sh"


def render(into: Path, device: str = "cpu", profile: str = "", **given: str) -> Path:
    """The overlay for a device, with options."""
    target = FOUND.device(device)
    names = planning.context(FOUND, target, FOUND.cluster, FOUND.options(device, profile, given))
    for part in FOUND.overlay:
        for path, (mode, content) in overlay.render(FOUND.roots, part, names).items():
            write(into, {path: content})
            (into / path).chmod(mode & 0o777)
    return into


def config(tmp_path: Path, *names: str, **options: Any) -> Any:
    return json.loads((render(tmp_path / "tree", **options) / "config" / "config.json").read_text("utf-8"))


@pytest.mark.parametrize("profile", ["", *dict.fromkeys(preset.name for preset in FOUND.profile)])
@pytest.mark.parametrize("device", FOUND.devices)
def test_every_profile_is_a_configuration(device: str, profile: str, tmp_path: Path) -> None:
    folder = render(tmp_path, device, profile) / "config"
    tables = {path.name: json.loads(path.read_text("utf-8")) for path in folder.rglob("*.json")}
    assert {"config.json", "lycoris_config.json", "multidatabackend.json", "user_prompt_library.json"} <= set(tables)
    quoted = [key for key, value in tables["config.json"].items() if value in ("true", "false")]
    assert quoted == []
    assert tables["config.json"]["optimizer"].startswith("bnb-") == (profile == "minimum" and device == "cuda")
    if profile == "full-rank":
        assert "lora_type" not in tables["config.json"] and tables["config.json"]["model_type"] == "full"


@pytest.mark.parametrize(
    ("options", "rate"),
    [
        ({}, 4e-5),
        ({"optimizer": "adamw_bf16"}, 1e-4),
        ({"optimizer": "prodigy"}, 1.0),
        ({"lora_type": "standard", "lora_rank": "8"}, 4e-4),
        ({"lora_type": "standard", "lora_rank": "16"}, 1.5e-4),
        ({"lora_type": "standard", "lora_rank": "64"}, 6e-5),
        ({"optimizer": "adamw_bf16", "learning_rate": "2e-5"}, 2e-5),
    ],
)
def test_learning_rates(options: dict[str, str], rate: float, tmp_path: Path) -> None:
    assert config(tmp_path, **options)["learning_rate"] == rate


def test_every_option_changes_something(tmp_path: Path) -> None:
    """An option that no template reads would be a promise that is not kept."""
    plain = {path: path.read_bytes() for path in render(tmp_path).rglob("*") if path.is_file()}
    others = {"bool": lambda value: not value, "int": lambda value: value + 4, "float": lambda value: value + 0.5}
    rank = {"lora_rank", "lora_alpha"}
    for option in FOUND.option:
        kind = type(option.default).__name__
        choices = [each for each in option.choices if each != option.default and each not in option.only_on]
        value = choices[0] if choices else others.get(kind, lambda value: f"{value}x")(option.default)
        given = {option.name: str(value), **({"lora_type": "standard"} if option.name in rank else {})}
        if option.name in rank:
            plain = {path: path.read_bytes() for path in render(tmp_path, lora_type="standard").rglob("*.json")}
        render(tmp_path, **given)
        assert any(path.read_bytes() != content for path, content in plain.items()), option.name
        render(tmp_path)
        plain = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_masks_half_resolution_and_evaluation(tmp_path: Path) -> None:
    folder = render(tmp_path, multi_resolution="true", masks="/masks", regularisation_data="", eval_data="/eval")
    backends = json.loads((folder / "config" / "multidatabackend.json").read_text("utf-8"))
    assert [(each["id"], each.get("resolution"), each.get("conditioning_data")) for each in backends] == [
        ("dreambooth-subject", 1024, "dreambooth-subject-masks"),
        ("dreambooth-subject-masks", 1024, None),
        ("dreambooth-subject-half", 512, "dreambooth-subject-half-masks"),
        ("dreambooth-subject-half-masks", 512, None),
        ("eval", 1024, None),
        ("text-embeds", None, None),
    ]


# ------------------------------------------------------------------------------------------------------ what is refused


def run(device: str, processes: int, words: list[str]) -> str:
    """What the launcher makes of a command line: the folder of the settings it wrote."""
    mine, theirs = simpletuner.given(words, ["config", "llama", "check"])
    return simpletuner.settings(device, processes, mine, theirs)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A rendered overlay whose settings are good, as the current folder."""
    place = render(tmp_path / "tree")
    images = {
        f"{name}/{number}.png": b"an image"
        for name in ("pseudo-camera-10k", "dreambooth-subject")
        for number in range(3)
    }
    write(place / "datasets", images)
    write(place / "model", {"model_index.json": '{"_class_name": "HiDreamImagePipeline"}'})
    monkeypatch.setattr(data, "_pil", lambda: None)  # whether the tests' own environment has it
    write(place / "llama", {"config.json": "{}", "tokenizer_config.json": "{}"})
    monkeypatch.chdir(place)
    return place


def test_good_settings_are_merged_and_written(tree: Path) -> None:
    words = ["--use_ema=true", "--learning-rate=1e-3", "--data.resolution=512", "--data.dreambooth-subject.repeats=7"]
    folder = Path(run("cpu", 1, [*words, "--output_dir=out", "--llama=llama", "--tracker_run_name=it is"]))
    written = json.loads((folder / "config.json").read_text("utf-8"))
    assert (written["use_ema"], written["learning_rate"], written["tracker_run_name"]) == (True, 1e-3, "it is")
    assert written["data_backend_config"] == "out/settings/multidatabackend.json"
    camera, subject, text = json.loads((folder / "multidatabackend.json").read_text("utf-8"))
    assert (camera["resolution"], camera["repeats"], subject["repeats"]) == (512, 0, 7) and "resolution" not in text
    assert (folder / "llama" / "tokenizer_4").resolve() == tree / "llama" == (folder / "llama/text_encoder_4").resolve()
    assert run("cpu", 1, ["--check"]) == ""


def _edit(tree: Path, file: str, **changes: Any) -> None:
    """Change keys of a JSON file (None: remove), or of the entry in a list whose id is `id`."""
    path = tree / "config" / file
    table = json.loads(path.read_text("utf-8"))
    part = next(each for each in table if each["id"] == changes["id"]) if isinstance(table, list) else table
    for key, value in changes.items():
        part[key] = value
        if value is None:
            del part[key]
    path.write_text(json.dumps(table), encoding="utf-8")


SUBJECT = {"file": "multidatabackend.json", "id": "dreambooth-subject"}


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (
            {},
            ["--base_model_precision=nf4-bnb"],
            '"base_model_precision": nf4-bnb needs CUDA .* this is cpu: int8-quanto',
        ),
        ({}, ["--optimizer=bnb-lion8bit-paged"], '"optimizer": bnb-lion8bit-paged needs CUDA .*: optimi-lion'),
        ({}, ["--train_batch_size=0"], '"train_batch_size": 0 is no whole number from 1'),
        ({}, ["--model_type=full"], '"model_type": full trains the very weights .*: no_change'),
        (
            {},
            ["--pretrained_model_name_or_path=./nowhere"],
            "--pretrained_model_name_or_path: no folder ./nowhere .from .*: give the folder's path",
        ),
        ({}, ["--pretrained_model_name_or_path=llama"], "no model_index.json in llama"),
        ({}, ["--llama=model"], "--llama: no config.json in .*model"),
        ({}, ["--llama=nowhere", "--check"], "--llama: no config.json in .*nowhere"),
        ({}, ["--enable_group_offload=true"], '"enable_group_offload": SimpleTuner has it for CUDA only, this is cpu'),
        (
            {},
            ["--optimizer_release_gradients=true", "--lora_type=standard", "--gradient_accumulation_steps=2"],
            'keeps none to accumulate: "gradient_accumulation_steps": 1',
        ),
        ({}, ["--optimizer_release_gradients=true"], "SimpleTuner updates no weight of a LyCORIS so: false"),
        ({}, ["use_ema"], "use_ema: write --name=value"),
        ({}, ["--resolution=big"], '"resolution": .big. is no number from 0'),
        (
            {},
            ["--data.nothing.repeats=1"],
            "no such data set; there are: pseudo-camera-10k-hidream, dreambooth-subject",
        ),
        ({}, ["--data.instance_data_dir=none"], "pseudo-camera-10k-hidream: no folder none"),
        ({}, ["--data.instance_data_dir=model"], "pseudo-camera-10k-hidream: no images in model"),
        ({}, ["--data.caption_strategy=textfile"], r"no 0.txt beside datasets.*0.png \(3 of 3 are missing\)"),
        ({}, ["--train_batch_size=4"], '3 images, 3 with "repeats", are fewer than 4 .*"repeats": 1'),
        ({}, ["--gradient_accumulation_steps=4"], "are fewer than 4"),
        ({}, ["--vae_batch_size=3"], 'are fewer than 4 .*more than "vae_batch_size"'),
        ({**SUBJECT, "dataset_type": "eval", "instance_data_dir": "none"}, [], "dreambooth-subject: no folder none"),
        ({"file": "config.json", "use_ema": "False"}, [], '"use_ema": "False" in quotes would be dropped: write false'),
        ({**SUBJECT, "caption_strategy": None}, [], 'dreambooth-subject: "caption_strategy" is missing'),
        ({**SUBJECT, "instance_prompt": ""}, [], 'needs an "instance_prompt"'),
        ({**SUBJECT, "conditioning_data": "masks"}, [], '"conditioning_data" is masks, which is no data set'),
        ({"file": "multidatabackend.json", "id": "text-embeds", "default": False}, [], 'must be of "dataset_type"'),
        ({"file": "lycoris_config.json", "apply_preset": {}}, [], 'neither "target_module" nor "name_algo_map"'),
        (
            {"file": "lycoris_config.json", "apply_preset": {"name_algo_map": {"a*": {}}}},
            [],
            'without "target_module": \\[\\] .* on top of all Linear layers',
        ),
    ],
)
def test_refused(change: dict[str, Any], words: list[str], said: str, tree: Path) -> None:
    if change:
        _edit(tree, **change)
    with pytest.raises(Mistake, match=said) as refused:
        run("cpu", 1, ["--output_dir=out", *words])
    assert "\n" not in str(refused.value)


def test_fp8_quanto_is_not_for_hidream(tree: Path) -> None:
    with pytest.raises(Mistake, match="does not take fp8-quanto for HiDream: fp8-torchao"):
        run("cuda", 1, ["--base_model_precision=fp8-quanto"])


def test_true_in_quotes_is_not_dropped(tree: Path) -> None:
    """The source document has "gradient_checkpointing": "true", which SimpleTuner takes for what it says."""
    _edit(tree, "config.json", gradient_checkpointing="true")
    assert run("cpu", 1, ["--check"]) == ""


def test_a_llama_is_that_of_this_run(tree: Path) -> None:
    folder = Path(run("cpu", 1, ["--output_dir=out", "--llama=llama"]))
    assert (folder / "llama" / "text_encoder_4" / "config.json").is_file()
    run("cpu", 1, ["--output_dir=out"])
    assert not (folder / "llama").exists() and (tree / "llama" / "config.json").is_file()


def test_an_option_simpletuner_does_not_have(tree: Path) -> None:
    sections = "simpletuner/simpletuner_sdk/server/services/field_registry/sections/loss.py"
    write(tree, {sections: 'ConfigField(arg_name="--hidream_use_load_balancing_loss")'})
    run("cpu", 1, ["--hidream_use_load_balancing_loss=true", "--check"])
    with pytest.raises(Mistake, match=r"no such option; did you mean --use_ema\?"):
        run("cpu", 1, ["--use_emma=true"])


def test_the_seeds_comma(tree: Path) -> None:
    """The source document's first LyCORIS configuration, as it is printed there."""
    write(tree, {"config/lycoris_config.json": '{\n  "apply_preset": {\n    "target_module": ["Attention",]\n  }\n}\n'})
    with pytest.raises(Mistake, match=r"config/lycoris_config\.json:3: not JSON"):
        run("cpu", 1, [])


SOURCES = {
    "simpletuner/helpers/training/optimizer_param.py": 'optimizer_choices = {"optimi-lion": {}, "adamw_bf16": {}}',
    "simpletuner/helpers/training/__init__.py": 'levels = ["no_change", "int8-quanto"]',
    f"{simpletuner.SECTIONS}/training.py": '["constant", "constant_with_warmup"]',
    f"{simpletuner.SECTIONS}/advanced.py": '["bf16", "no"]',
    "simpletuner/helpers/data_backend/factory.py": "config.get('caption_strategy')",
}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--optimizer=nonsense"], "\"optimizer\": SimpleTuner has no 'nonsense'"),
        (["--optimizer=optimi-lio"], "SimpleTuner has no 'optimi-lio'; did you mean optimi-lion\\?"),
        (["--base_model_precision=int9"], "\"base_model_precision\": SimpleTuner has no 'int9'"),
        (["--lr_scheduler=sideways"], "\"lr_scheduler\": SimpleTuner has no 'sideways'"),
        (["--data.caption_stratgy=filename"], 'reads no "caption_stratgy"; did you mean caption_strategy'),
    ],
)
def test_what_simpletuner_does_not_know(words: list[str], said: str, tree: Path) -> None:
    """Each passes SimpleTuner's own reading of its settings, and fails inside training."""
    backends = json.loads((tree / "config/multidatabackend.json").read_text("utf-8"))
    keys = " ".join(repr(key) for each in backends for key in each)
    write(tree, {**SOURCES, "simpletuner/helpers/keys.py": keys})
    assert run("cpu", 1, ["--check"]) == ""
    with pytest.raises(Mistake, match=said):
        run("cpu", 1, [*words, "--check"])


@pytest.mark.parametrize(
    ("path", "content", "words", "said"),
    [
        ("config/config.json", b"[]", (), "config/config.json: not an object, as JSON calls it"),
        ("config/multidatabackend.json", b"{}", (), "config/multidatabackend.json: not a list of objects"),
        ("config/multidatabackend.json", b'["x"]', (), "config/multidatabackend.json: not a list of objects"),
        ("config/multidatabackend.json", b"[\n\xe9]", (), "config/multidatabackend.json:2: not UTF-8 (byte 0xe9)"),
        ("", b"", (("train_batch_size", "true"),), '"train_batch_size": True is no whole number from 1'),
        ("", b"", (("output_dir", ""),), 'config/config.json: no "output_dir"'),
        ("", b"", (("output_dir", "config/config.json"),), "--output_dir: "),
        ("", b"", (("data.repeats", "x"),), "\"repeats\": 'x' is no whole number from 0"),
    ],
)
def test_files_and_values_of_an_odd_kind(
    path: str, content: bytes, words: tuple[Any, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    render(tmp_path)
    monkeypatch.chdir(tmp_path)
    if path:
        Path(path).write_bytes(content)
    with pytest.raises(Mistake) as raised:
        simpletuner.settings("cpu", 1, {}, words)
    assert str(raised.value).startswith(said)
