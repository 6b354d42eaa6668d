"""All that can be said of a launch before anything is loaded. To add a check, write a function that raises Mistake and
call it in `checked`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from launcher import checkpoints, data, environment, machines, model, options
from launcher.machines import Cluster
from launcher.mistake import Mistake
from launcher.options import Option, Program, Settings
from launcher.output import say


def checked(program: Program, settings: Settings, here: Path) -> tuple[Cluster, Path | None]:
    """Check everything, the quick checks first. Paths and defaults are filled in; the cluster comes back, and the
    accelerate config, if there is one. Raises Mistake."""
    options.fill(program, settings)
    options.check(program, settings)
    config = machines.config_file(program, settings, here) if program.starts == "accelerate" else None
    machines.from_environment(program, settings, config)
    if config:
        cluster, option = machines.by_accelerate(settings, config), "num_processors"
    elif program.starts == "torchrun":
        cluster, option = machines.by_torchrun(settings), "nproc_per_node"
    else:
        cluster, option = Cluster(1), ""
    machines.check_visible(cluster, program.device, option) if option else None
    accelerate_is_there(program, here)
    environment.check(program, here)
    writable(program.roles["output"], settings[program.roles["output"]])
    writable("log_file", settings["log_file"], file=True)
    for each in program.options:
        value = settings[each.name]
        if each.kind == "model":
            model.check(each, value, settings.more)
        elif each.kind == "encoder":
            model.check_encoder(each, value)
        elif each.kind == "part" and value:
            model.is_local(each.name, value, file=True)
        elif each.kind == "state" and value:
            settings[each.name], said = checkpoints.chosen_state(each, value, Path(settings[program.roles["output"]]))
            say("\n".join(said)) if said else None
        elif each.kind == "resume":
            settings[each.name], said = checkpoints.chosen(each.name, value, Path(settings[program.roles["output"]]))
            for line in said:
                say(line)
    images(program, settings, here)
    if program.whole_batches:
        whole_batches(program, settings, cluster.processes)
    if program.absolute:
        whole_paths(program, settings)
    return cluster, config


def images(program: Program, settings: Settings, here: Path) -> None:
    """The data set, whichever of its settings it is given by; what it turns out to be is said. Raises Mistake."""
    captions, prompt = program.roles.get("captions", ""), program.roles.get("prompt", "")
    for option in program.named("captioned"):
        prepared(option, settings, captions, program, here)
    dataset = next(iter(program.named("dataset")), None)
    alone = next(iter(program.named("images")), None)
    if dataset and not alone:
        if model.is_local(dataset.name, settings[dataset.name], "datasets"):
            data.check(dataset.name, settings[dataset.name], settings[captions], "dataset")
        has_words(settings, captions, prompt)
        return
    if not dataset or not alone:
        return
    a, b = dataset.name, alone.name
    if settings[a] and settings[b]:  # the one that is given takes the place of the other
        if (a in settings.given) != (b in settings.given):
            settings[b if a in settings.given else a] = ""
        else:
            raise Mistake(f"--{a} and --{b} are both given: one data set at a time")
    if not settings[a] and not settings[b]:
        raise Mistake(f"no data set: give --{a} or --{b}")
    kind = "dataset"
    if settings[b]:
        if not os.path.isdir(settings[b]):
            raise Mistake(f"--{b}: no folder {settings[b]} (from {os.getcwd()}): give the folder of your images")
        kind = data.check(b, settings[b], "", "images")
    elif model.is_local(a, settings[a], "datasets"):
        pictures = {each.name: settings[each.name] for each in program.named("column") if settings[each.name]}
        kind = data.check(a, settings[a], settings[captions], pictures=pictures)
        if kind == "images":
            settings[a], settings[b] = "", settings[a]
    settings[prompt] = settings[prompt] or (alone if kind == "images" else dataset).prompt
    if kind == "images":
        settings[captions] = ""
        if alone.instead:
            settings[alone.instead] = ""
    has_words(settings, captions, prompt)
    if kind == "images":
        say(f"Data set : images in {settings[b]}, each with the prompt {settings[prompt]}")
    else:
        column = settings[captions] or "no column"
        say(f"Data set : {settings[a]}, captions in {column}, without one the prompt {settings[prompt]}")


def has_words(settings: Settings, captions: str, prompt: str) -> None:
    """There is something to train the images with: captions, or a prompt for all. Raises Mistake."""
    if prompt and not settings[captions].strip() and not settings[prompt].strip():
        raise Mistake(f'no captions and no prompt: give --{prompt}="a photo of sks dog", or what suits the images')


def whole_batches(program: Program, settings: Settings, processes: int) -> None:
    """A local data set is enough for a whole batch a process, where the training script drops what is left over: it
    would train nothing. Raises Mistake."""
    places = [settings[each.name] for kind in ("dataset", "images") for each in program.named(kind)]
    place = next((Path(each) for each in places if each and os.path.isdir(each)), None)
    count = data.count(place) if place and not any(word.startswith("--repeats") for word in settings.more) else None
    batch = program.roles["batch"]
    if count is not None and count < int(settings[batch]) * processes:
        most = f"give at most {count // processes}" if count >= processes else "take fewer processes"
        each = f", one for each of {processes} processes" if processes > 1 else ""
        there = f"{place} has {count} images: no whole batch{each}"
        raise Mistake(f"--{batch} is {settings[batch]}, and {there}: {most}, or more images")


def prepared(option: Option, settings: Settings, captions: str, program: Program, here: Path) -> None:
    """Images with captions beside them, or in img2dataset's tars: checked, and unpacked once, by prepare_data.py beside
    the launch script; the folder that it names is trained from. Raises Mistake."""
    work = Path(settings[program.roles["output"]], "data")
    words = [sys.executable, str(here / "prepare_data.py"), settings[option.name], settings[captions], str(work)]
    chosen = {**os.environ, "PYTHONIOENCODING": "utf-8:surrogateescape"}  # names of files are any bytes
    done = subprocess.run(
        words, capture_output=True, check=False, env=chosen, encoding="utf-8", errors="surrogateescape"
    )
    if done.returncode:
        raise Mistake(f"--{option.name}: {(done.stderr.strip().splitlines() or ['it could not be read'])[-1]}")
    *told, place, extension = done.stdout.rstrip("\n").split("\n")
    say("\n".join(told))
    settings[option.name], settings[captions] = place, extension
    files = [path for path in sorted(Path(place).glob("**/*")) if path.suffix.lower() in data.IMAGES]
    problem = data.open_all(files)
    if problem:
        raise Mistake(f"--{option.name}: {problem}")


def writable(option: str, value: str, file: bool = False) -> None:
    """A folder, or a ``file``, is there or can be made, and be written. Nothing is made. Raises Mistake."""
    place = Path(value).absolute()
    if not value or (file and place.exists() and not place.is_dir() and os.access(place, os.W_OK)):
        return
    if file and place.is_dir():
        raise Mistake(f"--{option}: {value} is a folder: give a file in it")
    there = next(path for path in (place, *place.parents) if os.path.lexists(path))
    if not there.is_dir():
        raise Mistake(f"--{option}: {there} is no folder: give another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise Mistake(f"--{option}: {there} cannot be written to: give another place")


def whole_paths(program: Program, settings: Settings) -> None:
    """Paths from the root, for a training script that runs in a folder of its own."""
    for option in program.options:
        value = settings[option.name]
        if option.kind in options.PATHS and value and (os.path.exists(value) or option.kind in ("output", "folder")):
            settings[option.name] = os.path.realpath(value)


def accelerate_is_there(program: Program, here: Path) -> None:
    """What starts the training is on PATH. Raises Mistake."""
    if program.starts in ("accelerate", "simpletuner") and not shutil.which("accelerate"):
        where = f"pip install -r {here / program.requirements}"
        raise Mistake(f"no accelerate here: activate the environment, or {where}")
