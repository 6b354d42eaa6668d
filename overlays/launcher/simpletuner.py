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

from launcher import checkpoints, checks, environment, machines, options, report, scheduler, session, simpletuner_checks
from launcher.machines import Cluster
from launcher.mistake import Mistake, nearest
from launcher.options import Program
from launcher.output import say
from launcher.simpletuner_checks import SECTIONS, read
from launcher.simpletuner_data import check_data


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


def settings(device: str, processes: int, own: dict[str, str], words: Iterable[tuple[str, str]]) -> str:
    """Merge, check and write; the folder of what was written, "" with `check`. Raises Mistake."""
    words = list(words)
    place = own.get("config") or "config/config.json"
    config = read(Path(place))
    named = dict(words).get("data_backend_config") or config.get("data_backend_config", "config/multidatabackend.json")
    backends_file = str(named)
    backends = read(Path(backends_file), list)
    merge(config, backends, words, known_options(Path.cwd()))
    simpletuner_checks.check_config(config, device, Path(place))
    simpletuner_checks.check_values(config, backends, Path.cwd(), Path(backends_file))
    simpletuner_checks.check_adapter(config)
    check_data(backends, config, processes, Path(backends_file))
    llama = simpletuner_checks.find_llama(own["llama"]) if own.get("llama") else {}
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


def accelerate_config(config: Path, cluster: Cluster, several: Iterable[str], folder: Path) -> Path:
    """The accelerate config; for another number of processes, or several of one machine that have no port to meet at, a
    copy in ``folder`` that says so, with the lines ``several`` where it is one of a single process."""
    lines = machines.several(cluster, config, list(several))
    if machines.value(config, "num_processes") != str(cluster.processes):
        lines.append(f"num_processes: {cluster.processes}")
    if cluster.processes > 1 and cluster.machines == 1 and not cluster.port:
        lines.append(f"main_process_port: {machines.free_port()}")
    if not lines:
        return config
    keys = "|".join(line.partition(":")[0] for line in lines)
    kept = re.sub(rf"(?m)^({keys}):.*\n?", "", config.read_text(encoding="utf-8"))
    made = folder / "accelerate.yaml"
    made.write_text("\n".join([kept.rstrip("\n"), *lines]) + "\n", encoding="utf-8")
    return made


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
    own = options.Settings({**first, **mine})
    options.check(program, own)
    machines.from_environment(program, own, Path(program.config))
    cluster = machines.by_accelerate(own, Path(program.config))
    machines.check_visible(cluster, program.device, "num_processors")
    if cluster.processes > 1 and "distributed_type: NO" in program.several:
        raise Mistake(f"--num_processors is {cluster.processes}: accelerate starts one process there, give 1")
    written = settings(program.device["device"], cluster.processes, own, theirs)
    if not written:
        say("the settings are good")
        return 0
    checks.accelerate_is_there(program, here)
    environment.check(program, here)
    chosen = environment.with_toolkit(program.device, dict(os.environ))
    chosen = environment.variables(program, chosen, cluster.local, here)
    chosen = machines.network(cluster, program.device, scheduler.without_misleading(chosen))
    chosen.update(CONFIG_BACKEND="json", CONFIG_PATH=f"{written}/config.json", DISABLE_UPDATES="1")  # no poetry
    config_file = accelerate_config(Path(program.config), cluster, program.several, Path(written))
    chosen["ACCELERATE_CONFIG_PATH"] = str(config_file)
    if Path(written, "llama").is_dir():
        chosen["HIDREAM_LLAMA"] = f"{written}/llama"
    if program.device["device"] != "cuda":
        chosen.setdefault("DISABLE_LD_OVERRIDE", "1")  # nvjitlink is CUDA's
    chosen.setdefault("VIRTUAL_ENV", sys.prefix)
    chosen["PYTHONPATH"] = os.pathsep.join(filter(None, (str(here), chosen.get("PYTHONPATH", ""))))
    config = read(Path(written, "config.json"))
    output = Path(str(config["output_dir"])).expanduser()
    if config.get("resume_from_checkpoint") == "latest":
        for line in checkpoints.set_aside(output):
            say(line)
    log = session.log_file(own.get("log_file", ""), output, cluster)
    say(f"settings: {written}/config.json; log: {log}")
    return session.trained(["bash", program.script], chosen, log, shape(config, cluster), name, program, output)


def shape(config: dict[str, Any], cluster: Cluster) -> report.Shape:
    """What a step is made of, in the words of published figures."""
    checkpointing = "" if config.get("gradient_checkpointing") else "no "
    told = (config.get("mixed_precision", "bf16"), f"{config.get('resolution', 1024)} px")
    batch, accumulation = config.get("train_batch_size", 4), config.get("gradient_accumulation_steps", 1)
    words = (*map(str, told), f"{checkpointing}gradient checkpointing")
    return report.Shape(int(batch), cluster.processes, int(accumulation), words, True)
