"""All that a new recipe needs beside its series, in the manner of another: `kit new --like`.

Launch scripts whose options are the training scripts' own, accelerate config, requirements, inference script, tiny
model, smoke plan with reds, page. What only a person knows is left out and listed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kit import beside
from kit.errors import KitError
from kit.paths import TreePath
from kit.recipe import Recipe, Upstream
from kit.schema import load_toml
from kit.smoke import models
from kit.starter import arguments, pipeline

HERE = Path(__file__).parent
CONFIG = "accelerate_config.yaml"
SMALL = {"resolution": "32", "rank": "4", "max_sequence_length": "64", "learning_rate": "1e-2", "lr_warmup_steps": "0"}


def write(
    name: str,
    like: Recipe,
    upstream: Upstream,
    scripts: Mapping[TreePath, bytes],
    files: Mapping[TreePath, bytes],
    reached: Sequence[TreePath],
    fixes: Sequence[str],
) -> tuple[str, dict[str, bytes], list[str], list[str]]:
    """The rest of the recipe's text, the files beside it by their path below its root, what is left for a person, and
    what to type in a workspace.

    ``scripts`` are launched from one folder; ``fixes`` are those of the series. Raises KitError for scripts in several
    folders, and for one without an option that a launch script needs."""
    folders = {path.rpartition("/")[0] for path in scripts}
    if len(folders) != 1:
        raise KitError(f"--like: scripts of several folders: {', '.join(sorted(folders))}", "make a recipe for each")
    (folder,) = folders
    first, content = next(iter(scripts.items()))
    found = pipeline.find(content, first, files, reached)
    tables = {path: _settings(text, path, name, like, found) for path, text in scripts.items()}
    rows = tables[first]
    names = {path: {row["name"] for row in table} for path, table in tables.items()}
    launches = {path: f"finetune_{_stem(path, name, len(scripts))}.sh" for path in scripts}
    infer = f"infer_{name.replace('-', '_')}.py" if found and "prompt" in found.parameters else ""
    unknown = _unknown(found)
    reds = [red for red in _reds() if red["fix"] in fixes]
    runs = [
        _run(launches[path], names[path], "" if path == first else f"-{_own(path).replace('_', '-')}")
        for path in scripts
    ]
    facts: dict[str, Any] = {
        "name": name,
        "title": name,
        "like": like,
        "upstream": upstream.name,
        "url": upstream.url,
        "pin": upstream.pin,
        "folder": folder,
        "overlays": [(f"{folder}/launcher".lstrip("/"), "launcher"), (folder or ".", name)],
        "devices": like.devices,
        "scripts": [path.rpartition("/")[2] for path in scripts],
        "runs": runs,
        "lora": next((f"{{out}}/train{run['suffix']}" for run in runs if run["lora"]), ""),
        "infer": infer,
        "output": f"{name}-output",
        "model_name": "",
        "patched": False,
        "pipeline": found.name if found else "",
        "parameters": found.parameters if found else (),
        "requirements": f"{name.replace('-', '_')}_requirements.txt",
        "imports": _imports(found, like),
        "reds": reds,
        "called": f"{beside.RECIPES}/{name}.toml",
    }
    left = _left(found, unknown, rows, fixes, reds, like, not all(run["lora"] for run in runs))
    made = _launched(launches, tables, facts)
    overlay = f"overlays/{name}"
    made[f"{overlay}/{CONFIG}.j2"] = _render(f"{CONFIG}.j2", facts)
    required = f'{{% set file = "{facts["requirements"]}" %}}\n{{% extends "shared/requirements.txt.j2" %}}\n'
    made[f"{overlay}/{facts['requirements']}.j2"] = required
    if infer:
        made[f"{overlay}/{infer}.j2"] = _render("infer.py.j2", facts)
        made[f"{overlay}/inference.py.j2"] = '{% include "shared/inference.py" %}\n'
    made[f"tiny/{name}.toml"] = _tiny(found, unknown)
    made[f"{beside.RECIPES}/{name}.md"] = _render("page.md", {**facts, "left": left})
    place = f"{upstream.name}/{folder}".rstrip("/")
    editable = f"-e {upstream.name} " if found else ""  # a pipeline's class is the upstream's own
    after = [
        f"pip install {editable}-r {place}/{facts['requirements']}",
        f"cd {place} && bash {launches[first]} --help",
    ]
    return _render("recipe.toml", facts), {path: text.encode() for path, text in made.items()}, left, after


def _settings(
    content: bytes, path: TreePath, name: str, like: Recipe, found: pipeline.Pipeline | None
) -> list[dict[str, Any]]:
    """The settings of a script's launch script. Raises KitError for a script without an option that one needs."""
    rows = arguments.settings(arguments.read(content, path), f"{name}-output")
    known = {row["name"] for row in rows}
    for role in arguments.NEEDED:
        if arguments.ROLES[role] not in known:
            flags = [flag for flag, row in arguments.KNOWN.items() if row.get("name") == arguments.ROLES[role]]
            what = f"{path} has no --{(flags or [arguments.ROLES[role]])[0]}, which a launch script needs"
            raise KitError(f"--like {like.name}: {what}", "leave out --like, and write the overlay by hand")
    for row in rows:
        if row["kind"] == "model" and found:
            row["pipelines"] = [found.name]
    return rows


def _launched(
    launches: Mapping[TreePath, str], tables: Mapping[TreePath, list[dict[str, Any]]], facts: Mapping[str, Any]
) -> dict[str, str]:
    """The launch script of each script, and the table that the launcher reads, by their paths."""
    made: dict[str, str] = {}
    programs = []
    name = facts["name"]
    for path, script in launches.items():
        stem, rows = script.removesuffix(".sh"), tables[path]
        table = {**facts, "script": path.rpartition("/")[2], "rows": rows, "roles": arguments.roles(rows)}
        made[f"overlays/{name}-launch/{stem}.j2"] = _render("launch.j2", table)
        named = f'{{% set form, launch = "script.sh.j2", "{script}" %}}\n{{% include "{name}-launch/{stem}.j2" %}}\n'
        made[f"overlays/{name}/{script}.j2"] = named
        programs.append(f'"{script}": {{% include "{name}-launch/{stem}.j2" %}}')
    listed = '{% set form = "table.json.j2" %}\n{' + ",\n".join(programs) + "}\n"
    return {**made, f"overlays/{name}/launcher/programs.json.j2": listed}


def _stem(path: TreePath, name: str, scripts: int) -> str:
    return _own(path) if scripts > 1 else name.replace("-", "_")


def _own(path: TreePath) -> str:
    return path.rpartition("/")[2].removesuffix(".py").removeprefix("train_")


def _run(launch: str, names: set[str], suffix: str) -> dict[str, Any]:
    """A launch script in the smoke plan: the words that run it, and what its steps' names end in."""
    return {
        "suffix": suffix,
        "launch": ["bash", launch, *_data(names)],
        "small": [f"--{key}={value}" for key, value in SMALL.items() if key in names],
        "lora": "rank" in names,
    }


def _data(names: set[str]) -> list[str]:
    words = ["--model_name={tiny}/model"]
    words += ["--dataset_name={tiny}/data"] if "dataset_name" in names else ["--instance_data_dir={tiny}/dog"]
    words += ["--caption_column=prompt"] * ("caption_column" in names and "dataset_name" in names)
    return words + ["--instance_prompt=a dog"] * ("instance_prompt" in names)


def _imports(found: pipeline.Pipeline | None, like: Recipe) -> list[str]:
    """What a smoke run imports once: what starts a training, as far as the environment has it, and the pipeline's
    parts. Without any, the steps' processes are not watched, and which engine trains is not seen."""
    starting = ("torch.utils.tensorboard", "torch.distributed.run", "accelerate.commands.launch", "deepspeed")
    some = [name for name in starting if name.partition(".")[0] in like.environment.packages]
    return some + ([*found.components.values(), f"diffusers.{found.name}"] if found else [])


def _reds() -> list[dict[str, Any]]:
    return [{"fix": fix, **table} for fix, table in load_toml(HERE / "reds.toml")[1].items()]


def _unknown(found: pipeline.Pipeline | None) -> list[str]:
    """The components that kit has no tiny configuration of; what needs none is not among them."""
    plain = ("Tokenizer", "TokenizerFast", "Scheduler")
    known = models.known()
    classes = {name: cls.rpartition(".")[2] for name, cls in (found.components if found else {}).items()}
    return [name for name, cls in classes.items() if cls not in known and not cls.endswith(plain)]


def _tiny(found: pipeline.Pipeline | None, unknown: Sequence[str]) -> str:
    components = found.components if found else {}
    lines = [f"pipeline = {json.dumps(found.name if found else '')}\n"]
    for name, cls in components.items():
        lines.append(f"[model.{name}]\nclass = {json.dumps(cls)}")
        lines.append("# config = { }: kit has no tiny one of this class\n" if name in unknown else "")
    lines.append('[data.data]\npart = "image_folder"\ncaption = "prompt"\n\n[data.dog]\npart = "images_alone"\n')
    return "\n".join(lines)


def _left(
    found: pipeline.Pipeline | None,
    unknown: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    fixes: Sequence[str],
    reds: Sequence[Mapping[str, Any]],
    like: Recipe,
    whole: bool,
) -> list[str]:
    """What only a person knows, each in a line."""
    without = [fix for fix in fixes if fix not in {red["fix"] for red in reds}]
    empty = [row["name"] for row in rows if row["kind"] in ("model", "dataset", "images") and not row["default"]]
    told = [
        f"defaults of {', '.join(empty)}, and better ones than the script's own where a page or a card gives them",
        f"[environment.packages]: {like.name}'s, to be checked at this pin",
        "published figures ([[figure]]), and a profile with their settings",
        "[[smoke.parity]] cases",
    ]
    told += ["`moved` of the steps that train a whole model"] * whole
    told += [f"a red for {', '.join(without)}"] * bool(without)
    told += [f"a tiny configuration of {', '.join(unknown)}"] * bool(unknown)
    told += ["a pipeline that draws: none was found in the script"] * (not found)
    return told


def _render(name: str, facts: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.get_template(f"{name}.j2").render(facts)
