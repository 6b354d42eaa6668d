"""What the inference scripts share: reading and checking options, choosing a device, drawing, naming images, the speed.

What is drawn, and with which parameters, is in prompt_utils.py.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name under which diffusers saves a LoRA
OLDER_LORA_FILE = "pytorch_lora_weights.bin"  # the one it had before, as LoRAs on the hub still have it
HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class Mistake(Exception):
    """What is wrong with the input and what to give instead, in one line."""


def read_prompts(values: list[str]) -> list[str]:
    """The prompts among ``values``, each a prompt or the name of a file of prompts; repeated ones once, in order.

    A .jsonl or .json file holds strings or objects with "prompt" (a data set's metadata.jsonl will do); any other has a
    prompt a line, where empty lines and lines that start with # do not count.

    Raises Mistake for a file that is missing, unreadable or without a prompt, and for an empty prompt.
    """
    prompts: list[str] = []
    for value in values:
        path = Path(value).expanduser()
        if len(value) < 256 and "\n" not in value and path.is_file():
            prompts += _prompts_of(path)
        elif re.fullmatch(r"\S+\.(txt|jsonl?)", value):
            raise Mistake(f"--prompts: no file {value} (from {Path.cwd()}): give a file's path, or the prompt itself")
        elif not value.strip():
            raise Mistake("--prompts: empty: give a prompt, or a file of prompts")
        else:
            prompts.append(value.strip())
    return list(dict.fromkeys(prompts))


def _prompts_of(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Mistake(f"--prompts: {path}: {error}: save it as UTF-8 text, a prompt a line") from None
    if path.suffix not in (".json", ".jsonl"):
        lines = [line.strip() for line in text.splitlines()]
        prompts = [line for line in lines if line and not line.startswith("#")]
    else:
        try:
            items = json.loads(text) if path.suffix == ".json" else _json_lines(text)
        except ValueError as error:
            raise Mistake(f"--prompts: {path}: not JSON: {error}") from None
        if not isinstance(items, list):
            raise Mistake(f"--prompts: {path}: a list of prompts was expected")
        prompts = []
        for number, item in enumerate(items, 1):
            prompt = item.get("prompt") if isinstance(item, dict) else item
            if not isinstance(prompt, str) or not prompt.strip():
                raise Mistake(f'--prompts: {path}: entry {number} is no prompt: a string, or an object with "prompt"')
            prompts.append(prompt.strip())
    if not prompts:
        raise Mistake(f"--prompts: {path}: no prompt in it: write one a line")
    return prompts


def _json_lines(text: str) -> list[Any]:
    items = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                items.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
    return items


def read_seeds(values: list[str]) -> list[int]:
    """Seeds given apart or with commas, repeated ones once. Raises Mistake for what is no whole number from 0."""
    words = [word for value in values for word in value.replace(",", " ").split()]
    wrong = [word for word in words if not re.fullmatch(r"[0-9]{1,18}", word)]
    if wrong or not words:
        raise Mistake(f"--seeds: {wrong[0] if wrong else 'empty'}: give whole numbers from 0, such as --seeds 0 1 2")
    return list(dict.fromkeys(map(int, words)))


def read_size(value: str) -> tuple[int, int]:
    """Width and height in pixels of "N" or "WxH". Raises Mistake unless both are multiples of 16 above 0.

    16: the VAE shrinks a side eight times, and the transformer takes 2 x 2 patches. Upstream refuses anything else
    (pipeline_stable_diffusion_3.py, `check_inputs`) or rounds it down without a word (pipeline_hidream_image.py,
    `division`).
    """
    match = re.fullmatch(r"([0-9]{1,5})(?:[x*]([0-9]{1,5}))?", value.strip().lower())
    if not match:
        raise Mistake(f"--size: {value}: give pixels, N or WxH, such as 1024 or 1280x720")
    width, height = int(match[1]), int(match[2] or match[1])
    if min(width, height) < 16 or width % 16 or height % 16:
        near = "x".join(str(max(16, round(side / 16) * 16)) for side in (width, height))
        raise Mistake(f"--size: {value}: sides must be multiples of 16: give {near}")
    return width, height


def image_name(prompt: str, seed: int, settings: dict[str, Any]) -> str:
    """A file name for one image: the prompt's words, a digest of prompt and settings, and the seed.

    >>> image_name("3d icon, a llama", 0, {})
    '3d-icon-a-llama_5eeda3dd_seed0.png'
    """
    words = "-".join(re.findall(r"\w+", prompt.lower()))[:40].strip("-_") or "image"
    whole = json.dumps([prompt, settings], sort_keys=True, default=str)
    return f"{words}_{hashlib.sha256(whole.encode()).hexdigest()[:8]}_seed{seed}.png"


def check_source(option: str, value: str, files: tuple[str, ...]) -> None:
    """Let a folder with one of ``files``, or a hub name (org/name), through. Raises Mistake for anything else.

    Offline (HF_HUB_OFFLINE) a hub name is left to diffusers, which looks for it in its cache.
    """
    path = Path(value).expanduser()
    if path.is_dir():
        if not any((path / name).is_file() for name in files):
            raise Mistake(f"{option}: no {' or '.join(files)} in {value}: give the folder that has it")
    elif path.exists():
        raise Mistake(f"{option}: {value} is a file: give the folder it is in")
    elif not HUB_NAME.fullmatch(value):
        raise Mistake(f"{option}: no folder {value} (from {Path.cwd()}): give its path, or a hub name (org/name)")


def check_lora(value: str) -> tuple[str, str | None]:
    """The folder or hub name of a LoRA and the name of the file in it. Raises Mistake where there is none.

    The file's name is always given for a local LoRA: without it diffusers asks the hub (loaders/lora_base.py,
    `_best_guess_weight_name`) and fails offline.
    """
    path = Path(value).expanduser()
    if path.is_file():
        return str(path.parent), path.name
    if not path.is_dir() and HUB_NAME.fullmatch(value):
        return value, None
    if not path.is_dir():
        raise Mistake(f"--lora: no file or folder {value} (from {Path.cwd()}): give the training's output folder")
    names = [name for name in (LORA_FILE, OLDER_LORA_FILE) if (path / name).is_file()]
    if not names:
        checkpoints = sorted(path.glob(f"checkpoint-*/{LORA_FILE}"), key=lambda file: (len(file.parent.name), file))
        hint = checkpoints[-1].parent if checkpoints else "the training's output folder"
        raise Mistake(f"--lora: no {LORA_FILE} in {value}: give {hint}")
    return str(path), names[0]


def choose_device(name: str) -> str:
    """The torch device for ``name`` ("auto": the first there is). Raises Mistake where it is not there, or its package
    cannot be loaded."""
    if name == "cpu":
        return name
    failed: dict[str, str] = {}  # by package

    def load(package: str) -> Any:
        try:
            return importlib.import_module(package)
        except (ImportError, OSError, RuntimeError) as error:  # torch itself loads the packages of devices
            if not isinstance(error, ModuleNotFoundError):
                failed[package] = cause(error)
            return None

    def there(device: str) -> bool:
        load(f"torch_{device}")  # a package of this name registers its device with torch
        return device == "cpu" or (hasattr(torch, device) and getattr(torch, device).is_available())

    if (torch := load("torch")) and name == "auto":
        return next(device for device in ("npu", "tpu", "cuda", "cpu") if there(device))
    if torch and there(name):
        return name
    for package, reason in failed.items():
        sets_up = next(
            (path for path in (Path(each).expanduser() for each in TOOLKITS) if path.is_file()), "…/set_env.sh"
        )
        way = f"set up the device's toolkit first: source {sets_up}" if ".so" in reason else "install it anew"
        raise Mistake(f"--device {name}: {package} cannot be loaded: {reason}: {way}")
    if not torch:
        raise Mistake("torch cannot be imported: activate the environment first")
    raise Mistake(f"--device {name}: torch finds no such device here: install its package, or give --device auto")


class Dtypes:
    """Stands for torch among a script's constants: `torch.float16` there is "torch.float16"."""

    def __getattr__(self, name: str) -> str:
        return f"torch.{name}"


dtypes = Dtypes()


def check_dtype(device: str, name: str) -> None:
    """Raises Mistake for what is no dtype to compute in, and for float16 on a CPU where this PyTorch cannot (2.1 has no
    convolution in it)."""
    if name not in OPTIONS["dtype"]["choices"]:
        raise Mistake(
            f"DTYPE: {name}: give one of {', '.join(OPTIONS['dtype']['choices'])}, as --dtype or in the script"
        )
    if device == "cpu" and name == "float16":
        import torch

        try:
            torch.nn.Conv2d(1, 1, 1).half()(torch.ones(1, 1, 1, 1).half())
        except RuntimeError:
            raise Mistake("--dtype float16: this PyTorch cannot on a CPU: give --dtype bfloat16 or float32") from None


# Where the set-up script of CANN is, from 8.5 on and before.
TOOLKITS = [f"{root}/Ascend/{name}/set_env.sh" for name in ("cann", "ascend-toolkit") for root in ("/usr/local", "~")]

# What a script may take; it takes those it has a default for. The defaults are the constants at its top.
OPTIONS: dict[str, dict[str, Any]] = {
    "model": {"help": "the model: a folder or a hub name"},
    "lora": {"help": "the LoRA: a folder, a file or a hub name"},
    "prompts": {"nargs": "+", "help": "prompts, or files of prompts"},
    "seeds": {"nargs": "+", "help": "one image each"},
    "steps": {"type": int, "help": "denoising steps"},
    "size": {"help": "pixels, N or WxH"},
    "guidance": {"type": float, "help": "guidance scale; up to 1: none"},
    "output": {"help": "the folder for the images"},
    "device": {"help": "npu, tpu, cuda, cpu, or auto: the first there is"},
    "dtype": {"choices": ["bfloat16", "float16", "float32"], "help": "what the model computes in"},
}


def parse_options(
    description: str,
    defaults: dict[str, Any],
    more: dict[str, dict[str, Any]],
    check: Callable[[argparse.Namespace], None],
    arguments: list[str] | None = None,
) -> argparse.Namespace:
    """Read and check the options there are ``defaults`` for: those of OPTIONS, and ``more`` in the same form.

    ``check`` looks at the script's own options, raising Mistake. A LoRA may be left out where its default is empty.
    `jobs` is added: each prompt with each seed. What is wrong is one line on stderr and exit status 2, before anything
    is loaded.
    """
    parser = argparse.ArgumentParser(
        usage="python %(prog)s [options, see --help]",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    if "dtype" in defaults:  # a dtype of torch, or its name
        defaults = {**defaults, "dtype": str(defaults["dtype"]).rpartition(".")[2]}
    for name, keywords in {**OPTIONS, **more}.items():
        if name in defaults:
            parser.add_argument(f"--{name}", default=defaults[name], **keywords)
    parser.add_argument("--offload", action="store_true", help="only the part at work is on the device: less memory")
    options = parser.parse_args(arguments)
    try:
        options.prompts = read_prompts(options.prompts)
        options.seeds = read_seeds([str(seed) for seed in options.seeds])
        options.jobs = [(prompt, seed) for prompt in options.prompts for seed in options.seeds]
        options.size = read_size(options.size)
        options.output = Path(options.output).expanduser()
        if options.steps < 1:
            raise Mistake(f"--steps: {options.steps}: give a whole number from 1")
        check_source("--model", options.model, ("model_index.json",))
        if "lora" in defaults:
            options.lora = check_lora(options.lora) if options.lora or defaults["lora"] else None
        check(options)
        options.device = choose_device(options.device)
        check_dtype(options.device, options.dtype)
    except Mistake as mistake:
        give_up(str(mistake))
    return options


def give_up(message: str) -> NoReturn:
    """One line on stderr, and exit status 2."""
    sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {message}\n")
    raise SystemExit(2)


def cause(error: BaseException) -> str:
    """What went wrong first, in one line, without the advice and addresses that libraries put below it."""
    return cause(error.__cause__) if error.__cause__ else str(error).strip().partition("\n")[0]


def make_ready(pipeline: Any, options: argparse.Namespace) -> None:
    """Load the LoRA of ``options``, if any, and put the pipeline on their device, part by part where they say so."""
    lora = getattr(options, "lora", None)
    if lora:
        pipeline.load_lora_weights(lora[0], weight_name=lora[1])
    if options.offload and options.device != "cpu":
        pipeline.enable_model_cpu_offload(device=options.device)
    else:
        pipeline.to(options.device)


def share(jobs: list[Any], rank: int, processes: int) -> list[Any]:
    """The jobs of process ``rank``, from 0, of ``processes``: each job is one process's, and none waits for long.

    accelerate's own `split_between_processes` gives the last input to every process there is nothing left for (0.33,
    state.py): several would write one file.

    >>> share(["a", "b", "c"], 0, 2), share(["a", "b", "c"], 1, 2), share(["a"], 1, 2)
    (['a', 'c'], ['b'], [])
    """
    return jobs[rank::processes]


def settings_of(options: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """What an image is made from besides its prompt and seed: of the options, and ``more``."""
    names = ("model", "lora", "steps", "size", "guidance", "dtype")
    return {**{name: getattr(options, name, None) for name in names}, **more}


def draw_images(
    draw: Callable[[str, int], Any], options: argparse.Namespace, settings: dict[str, Any], steps: int
) -> float:
    """Draw an image for each job of ``options``, save it in their output folder, say how fast that was and return it.

    ``draw`` takes a prompt and a seed and gives a Pillow image, on the host: when it returns, the device is done. A
    file is there whole or not at all. E2E it/s: the ``steps`` each takes over the seconds of whole pipeline calls, text
    encoding and VAE decoding included; where there are several images, the first only warms up.
    """
    options.output.mkdir(parents=True, exist_ok=True)
    wanted = "x".join(map(str, options.size))
    seconds = []
    for prompt, seed in options.jobs:
        start = time.perf_counter()
        image = draw(prompt, seed)
        seconds.append(time.perf_counter() - start)
        path = options.output / image_name(prompt, seed, settings)
        part = path.with_name(f".{path.name}")
        image.save(part)
        part.replace(path)
        note = "" if image.size == options.size else f" (asked for {wanted}: more than the model draws)"
        print(f"{path}  {image.width}x{image.height}{note}  {seconds[-1]:.1f} s", flush=True)
    if not seconds:
        return 0.0
    counted = seconds[1:] or seconds
    rate = steps * len(counted) / sum(counted)
    what = f"{len(seconds)} images, {steps} steps, {options.device}, {options.dtype}"
    print(f"E2E it/s : {rate:.4g} ({what})", flush=True)
    return rate
