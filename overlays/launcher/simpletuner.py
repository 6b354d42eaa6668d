"""SimpleTuner: its settings are files, config/config.json and those it names, which are merged with what is given.

    bash train_hidream_lokr.sh [--name=value]... [--data.key=value]... [--data.id.key=value]...

`--data.…` is for every data set of images, or the one with that id. What a run uses is written to OUTPUT_DIR/settings.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from launcher import checks, data, environment, model, options, report, run
from launcher.machines import Cluster
from launcher.mistake import Mistake, nearest
from launcher.options import Option, Program
from launcher.output import say
from launcher.simpletuner_data import check_data, check_whole

QUOTED = re.compile(r"""["']([A-Za-z][\w.-]*)["']""")
SECTIONS = "simpletuner/simpletuner_sdk/server/services/field_registry/sections"
TRAINING = "simpletuner/helpers/training"
# Where SimpleTuner's source says which values there are (v4.0.6): a value that is not spelled out there is none.
VALUES = {
    "optimizer": f"{TRAINING}/optimizer_param.py",
    "lr_scheduler": f"{SECTIONS}/training.py",
    "mixed_precision": f"{SECTIONS}/training.py",
    **dict.fromkeys(
        ("base_model_precision", *(f"text_encoder_{number}_precision" for number in range(1, 5))),
        f"{TRAINING}/__init__.py",
    ),
}
LLAMA = ("text_encoder_4", "tokenizer_4")  # parts of the model that may come from elsewhere
CUDA_ONLY = re.compile(r"nf4|fp8|bnb-|.*-bnb$")


def read(path: Path, kind: type = dict) -> Any:
    """A JSON file that is an object, or a list of them. Raises Mistake with file and line."""
    try:
        found: Any = json.loads(data.text(path))
    except OSError as error:
        raise Mistake(f"{path}: {error.strerror}: run it from the folder with config/") from None
    except json.JSONDecodeError as error:
        raise Mistake(f"{path}:{error.lineno}: not JSON: {error.msg} (a comma too many, or one missing?)") from None
    items = found if isinstance(found, list) else []
    if not isinstance(found, kind) or not all(isinstance(each, dict) for each in items):
        raise Mistake(f"{path}: not {'a list of objects' if kind is list else 'an object'}, as JSON calls it")
    return found


def value(text: str) -> Any:
    """`true`, numbers and lists as JSON has them; anything else is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def known_options(root: Path) -> set[str]:
    """The options SimpleTuner's own parser has, read from its source; none where that is not under ``root``."""
    text = "".join(path.read_text(encoding="utf-8") for path in root.glob(f"{SECTIONS}/*.py"))
    named = set(re.findall(r'arg_name="--(\w+)"', text))
    return named | {f"text_encoder_{number}_precision" for number in range(1, 5)} if named else set()


def spelled_out(root: Path, pattern: str) -> set[str]:
    """Every word that stands in quotes in files of SimpleTuner's source; none where there is no such file."""
    return {word for path in root.glob(pattern) for word in QUOTED.findall(path.read_text(encoding="utf-8"))}


def merge(
    config: dict[str, Any], backends: list[dict[str, Any]], words: Iterable[tuple[str, str]], known: set[str]
) -> None:
    """Put the values that are given, (name, text) each, into both. Raises Mistake."""
    for name, text in words:
        *of, key = name.split(".")
        key = key.replace("-", "_")
        if of[:1] == ["data"]:
            images = [each for each in backends if each.get("dataset_type", "image") == "image"]
            chosen = [each for each in backends if of[1:] == [each.get("id")]] if of[1:] else images
            if not chosen:
                there = ", ".join(each.get("id", "?") for each in backends)
                raise Mistake(f"--{name}={text}: no such data set; there are: {there}")
            for each in chosen:
                each[key] = value(text)
        elif known and key not in {*known, *config}:
            like = nearest(f"--{key}", sorted(f"--{each}" for each in {*known, *config}))
            raise Mistake(f"--{key}: SimpleTuner has no such option{like}")
        else:
            config[key] = value(text)


def given(words: Sequence[str], own: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The words of the command line as the launcher's ``own`` settings and as SimpleTuner's: `--name=value`, `--name
    value`, or `--name` for true. Raises Mistake."""
    mine: dict[str, str] = {}
    theirs: list[tuple[str, str]] = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, text = word[2:].partition("=")
        if not word.startswith("--") or not name:
            raise Mistake(f"{word}: write --name=value")
        if not equals:
            text = left.pop(0) if left and not left[0].startswith("--") else "true"
        if name.replace("-", "_") in own:
            mine[name.replace("-", "_")] = text
        else:
            theirs.append((name, text))
    return mine, theirs


def check_values(config: dict[str, Any], backends: list[dict[str, Any]], root: Path, file: Path) -> None:
    """Values and keys that SimpleTuner's source does not know. Raises Mistake."""
    for key, pattern in VALUES.items():
        known = spelled_out(root, pattern)
        item = config.get(key)
        if isinstance(item, str) and known and item not in known and not CUDA_ONLY.match(item):
            raise Mistake(f'"{key}": SimpleTuner has no {item!r}{nearest(item, sorted(known))}')
    known = spelled_out(root, "simpletuner/helpers/**/*.py")
    for each in backends if known else []:
        for key in each:
            if key not in known:
                raise Mistake(f'{file}: {each.get("id")}: SimpleTuner reads no "{key}"{nearest(key, sorted(known))}')
    for key in ("resolution", "num_train_epochs", "learning_rate"):
        item = config.get(key, 1)
        if not isinstance(item, (int, float)) or isinstance(item, bool) or item < 0:
            raise Mistake(f'"{key}": {item!r} is no number from 0')


def check_config(config: dict[str, Any], device: str, file: Path) -> None:
    """What can be said of the options alone. Raises Mistake."""
    for key, item in config.items():
        if isinstance(item, str) and item.strip().lower() == "false":
            raise Mistake(f'{file}: "{key}": "{item}" in quotes would be dropped: write false, without quotes')
    precisions = {key: item for key, item in config.items() if key.endswith("_precision")}
    for key, item in (*precisions.items(), ("optimizer", config.get("optimizer"))):
        if CUDA_ONLY.match(str(item)) and device != "cuda":
            better = "optimi-lion" if key == "optimizer" else "int8-quanto"
            raise Mistake(f'"{key}": {item} needs CUDA (bitsandbytes, or its 8-bit floats), this is {device}: {better}')
    if config.get("base_model_precision") == "fp8-quanto":
        raise Mistake('"base_model_precision": SimpleTuner does not take fp8-quanto for HiDream: fp8-torchao')
    if config.get("enable_group_offload") and device != "cuda":
        raise Mistake(f'"enable_group_offload": SimpleTuner has it for CUDA only, this is {device}: false')
    if config.get("optimizer_release_gradients"):
        if config.get("model_type") == "lora" and config.get("lora_type") == "lycoris":
            raise Mistake('"optimizer_release_gradients": SimpleTuner updates no weight of a LyCORIS so: false')
        if config.get("gradient_accumulation_steps", 1) != 1:
            raise Mistake('"optimizer_release_gradients" keeps none to accumulate: "gradient_accumulation_steps": 1')
    if config.get("mixed_precision") == "fp16" and device == "cpu":
        raise Mistake('"mixed_precision": a CPU does not train in fp16: bf16')
    if config.get("model_type") == "full" and config.get("base_model_precision", "no_change") != "no_change":
        raise Mistake('"model_type": full trains the very weights that "base_model_precision" quantises: no_change')
    for key in ("train_batch_size", "gradient_accumulation_steps", "max_train_steps", "vae_batch_size"):
        check_whole(config, key, 1)
    if not config.get("output_dir"):
        raise Mistake(f'{file}: no "output_dir": where the adapter, checkpoints and logs go')
    checks.writable("output_dir", os.path.expanduser(str(config["output_dir"])))
    option = Option("pretrained_model_name_or_path", "model", "", pipelines=("HiDreamImagePipeline",), apart=LLAMA)
    model.check(option, os.path.expanduser(str(config.get(option.name, ""))))


def check_adapter(config: dict[str, Any]) -> None:
    """The LyCORIS file is there, and is for LoKr on some modules. Raises Mistake."""
    if config.get("model_type") != "lora" or config.get("lora_type") != "lycoris":
        return
    file = Path(str(config.get("lycoris_config", "config/lycoris_config.json")))
    table = read(file)
    preset = table.get("apply_preset", {})
    if not preset.get("target_module") and not preset.get("name_algo_map"):
        raise Mistake(f'{file}: neither "target_module" nor "name_algo_map" in "apply_preset" names a module to train')
    if preset.get("name_algo_map") and "target_module" not in preset:
        raise Mistake(
            f'{file}: without "target_module": [] the modules of "name_algo_map" come on top of all Linear layers, '
            "the routed experts' too: add it"
        )


def find_llama(llama: str) -> dict[str, Path]:
    """Where the Llama and its tokenizer are, by the names SimpleTuner has for their folders. Raises Mistake."""
    folder = Path(llama).expanduser().resolve()
    found = {}
    for part, marker in {"text_encoder_4": "config.json", "tokenizer_4": "tokenizer_config.json"}.items():
        found[part] = folder / part if (folder / part).is_dir() else folder
        if not (found[part] / marker).is_file():
            raise Mistake(f"--llama: no {marker} in {found[part]}: give the folder of the Llama with its tokenizer")
    return found


def settings(device: str, processes: int, own: dict[str, str], words: Iterable[tuple[str, str]]) -> str:
    """Merge, check and write; the folder of what was written, "" with `check`. Raises Mistake."""
    words = list(words)
    place = own.get("config") or "config/config.json"
    config = read(Path(place))
    named = dict(words).get("data_backend_config") or config.get("data_backend_config", "config/multidatabackend.json")
    backends_file = str(named)
    backends = read(Path(backends_file), list)
    merge(config, backends, words, known_options(Path.cwd()))
    check_config(config, device, Path(place))
    check_values(config, backends, Path.cwd(), Path(backends_file))
    check_adapter(config)
    check_data(backends, config, processes, Path(backends_file))
    llama = find_llama(own["llama"]) if own.get("llama") else {}
    if own.get("check", "false") not in ("true", "false"):
        raise Mistake(f"--check is true or false, not '{own['check']}'")
    checks.writable("log_file", own.get("log_file", ""), file=True)
    if own.get("check") == "true":
        return ""
    folder = Path(str(config["output_dir"])).expanduser() / "settings"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "llama", ignore_errors=True)  # links, of another run
    for part, source in llama.items():  # into one folder, as SimpleTuner wants them
        (folder / "llama").mkdir(exist_ok=True)
        (folder / "llama" / part).symlink_to(source)
    config["data_backend_config"] = str(folder / "multidatabackend.json")
    (folder / "multidatabackend.json").write_text(json.dumps(backends, indent=4) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    return str(folder)


USAGE = """\
  --name=value                     for this run instead of what config/config.json says; SimpleTuner's options are in
                                   its documentation/OPTIONS.md
  --data.key=value                 for this run, in every image data set of config/multidatabackend.json
  --data.id.key=value              the same, in the one with that id

Paths count from the folder of this script. What a run used is kept in settings/ of its output folder."""


def launch(program: Program, here: Path, name: str, words: Sequence[str]) -> int:
    """One launch, from the folder of the launch script. Raises Mistake."""
    os.chdir(here)
    here = Path.cwd()
    first = options.Settings({option.name: os.environ.pop(option.name, "") for option in program.options})
    if any(word in ("-h", "--help") for word in words):
        say(options.usage(name, program, first, {}) + "\n" + USAGE)
        return 0
    mine, theirs = given(words, [*first, *options.OWN])
    own = {**first, **mine}
    written = settings(program.device["device"], program.processes, own, theirs)
    if not written:
        say("the settings are good")
        return 0
    checks.accelerate_is_there(program, here)
    environment.check(program, here)
    chosen = environment.with_toolkit(program.device, dict(os.environ))
    cluster = Cluster(program.processes, program.machines)
    chosen = environment.variables(program, chosen, cluster.local, here)
    chosen.update(CONFIG_BACKEND="json", CONFIG_PATH=f"{written}/config.json", DISABLE_UPDATES="1")  # no poetry
    chosen["ACCELERATE_CONFIG_PATH"] = program.config
    if Path(written, "llama").is_dir():
        chosen["HIDREAM_LLAMA"] = f"{written}/llama"
    if program.device["device"] != "cuda":
        chosen.setdefault("DISABLE_LD_OVERRIDE", "1")  # nvjitlink is CUDA's
    chosen.setdefault("VIRTUAL_ENV", sys.prefix)
    chosen["PYTHONPATH"] = os.pathsep.join(filter(None, (str(here), chosen.get("PYTHONPATH", ""))))
    config = read(Path(written, "config.json"))
    output = Path(str(config["output_dir"])).expanduser()
    log = run.log_file(own.get("log_file", ""), output, cluster)
    say(f"settings: {written}/config.json; log: {log}")
    return run.trained(["bash", program.script], chosen, None, log, shape(config, cluster), name, program, output)


def shape(config: dict[str, Any], cluster: Cluster) -> report.Shape:
    """What a step is made of, in the words of published figures."""
    checkpointing = "" if config.get("gradient_checkpointing") else "no "
    told = (config.get("mixed_precision", "bf16"), f"{config.get('resolution', 1024)} px")
    batch, accumulation = config.get("train_batch_size", 4), config.get("gradient_accumulation_steps", 1)
    words = (*map(str, told), f"{checkpointing}gradient checkpointing")
    return report.Shape(int(batch), cluster.processes, int(accumulation), words, True)
