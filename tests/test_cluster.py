"""`kit cluster`: what is written for each scheduler, and whether it would take it.

Pod templates are checked by kubernetes-validate. The kinds themselves are custom resources, whose definitions are not
kit's: $KIT_CRDS names a folder of them (ascend-operator.yaml, batch.volcano.sh_jobs.yaml, …), where they can be had.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit import lock, overlay, planning, recipe, recipes
from kit.cli import KINDS
from kit.commands import cluster

Kit = Callable[..., Any]
MANIFESTS = ("ascendjob", "volcano", "pytorchjob", "trainjob")
ODD = """--prompt=a "b" 'c' \\d $(HOME) `date` $HOME"""


def made(place: Path, name: str, device: str) -> Path:
    """As much of a workspace as is looked at."""
    found = recipes.load(name)
    profile = found.device(device)
    numbers = recipe.Cluster(processes=profile.processes)
    context = planning.context(found, profile, numbers)
    for part in found.overlay:
        for path, (_, content) in overlay.render(found.roots, part, context).items():
            file = place / found.upstream[0].name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    lock.write(lock.Lock(name, "", device, dataclasses.asdict(numbers), []), place)
    return place


@pytest.fixture(scope="module", params=["npu", "cuda", "cpu"])
def hidream(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("hidream") / "work space", "hidream", request.param)


def manifest(folder: Path, kind: str, **more: str) -> dict[str, Any]:
    """What the script prints, with an option that is hard to quote."""
    command = ["bash", f"kit-{kind}.sh", ODD]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def templates(node: Any) -> Iterator[dict[str, Any]]:
    """The pod templates in a manifest."""
    if isinstance(node, dict):
        if "containers" in node.get("spec", {}):
            yield node
        node = list(node.values())
    for value in node if isinstance(node, list) else []:
        yield from templates(value)


def test_every_kind_has_a_template() -> None:
    assert sorted(KINDS) == cluster.kinds()


@pytest.mark.parametrize("kind", KINDS)
def test_scripts_are_sound(kind: str, hidream: Path, kit: Kit, tmp_path: Path) -> None:
    done = kit("cluster", hidream, "--for", kind, "--image", "registry/it:1", "--machines", "3")
    assert done.status == 0, done.err
    script = Path(f"kit-{kind}.sh")
    assert os.access(script, os.X_OK) and f"written: {script}" in done.out
    shellcheck = Path(sys.executable).with_name("shellcheck")
    subprocess.run([shellcheck, script], check=True)
    text = script.read_text()
    assert "3 machines" in text and all(len(line) < 160 for line in text.splitlines())


@pytest.mark.parametrize("kind", MANIFESTS)
def test_pods(kind: str, hidream: Path, kit: Kit) -> None:
    """Strictly: a field that Kubernetes does not know is an error. The launch script's words arrive as they are."""
    validate = pytest.importorskip("kubernetes_validate").validate
    assert kit("cluster", hidream, "--for", kind, "--image", "registry/it:1", "--machines", "3").status == 0
    found = manifest(Path.cwd(), kind)
    pods = list(templates(found))
    assert pods
    for pod in pods:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "it", **pod.get("metadata", {})}, **pod}
        if kind == "trainjob":  # a patch of the runtime's pods
            pod["spec"]["containers"][0]["image"] = "registry/it:1"
        validate(pod, "1.30", strict=True)
        assert pod["spec"]["terminationGracePeriodSeconds"] == 600
    container = found["spec"]["trainer"] if kind == "trainjob" else pods[-1]["spec"]["containers"][0]
    shell, script, *words = container["command"][2:]
    done = subprocess.run(
        ["bash", "-c", shell.replace("exec bash", "printf '%s\\n'"), script, *words], capture_output=True
    )
    assert done.stdout.decode().splitlines()[-1] == ODD.replace("$(", "$$(")  # which Kubernetes makes one of
    assert words[0] == "--resume_from_checkpoint=latest"


@pytest.mark.parametrize("kind", MANIFESTS)
def test_kinds(kind: str, hidream: Path, kit: Kit) -> None:
    """By their own definitions, strictly."""
    import jsonschema

    assert kit("cluster", hidream, "--for", kind, "--image", "registry/it:1").status == 0
    found = manifest(Path.cwd(), kind)
    schema = definitions().get((found["apiVersion"], found["kind"]))
    if not schema:
        pytest.skip(f"no definition of {found['kind']} in KIT_CRDS")
    assert [error.message for error in jsonschema.Draft7Validator(schema).iter_errors(found)] == []


def definitions() -> dict[tuple[str, str], Any]:
    found = {}
    for path in Path(CRDS).glob("*.yaml") if CRDS else []:
        for each in yaml.safe_load_all(path.read_text()):
            if each and each.get("kind") == "CustomResourceDefinition":
                for version in each["spec"]["versions"]:
                    schema = strict(version["schema"]["openAPIV3Schema"])
                    schema["properties"]["metadata"] = {"type": "object"}
                    found[f"{each['spec']['group']}/{version['name']}", each["spec"]["names"]["kind"]] = schema
    return found


def strict(schema: Any) -> Any:
    """A definition that takes no field it does not name."""
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {}
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: strict(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for key in ("additionalProperties", "items"):
        schema[key] = strict(schema[key]) if key in schema else {}
    return schema


CRDS = os.environ.get("KIT_CRDS", "")  # before the test's own environment


def test_what_only_webhooks_check(hidream: Path, kit: Kit) -> None:
    """The operators refuse other names of containers and ports, several masters, and jobs of no framework; they count
    pods and cards."""
    device = lock.read(hidream).device
    for kind, specs, container, port in (
        ("ascendjob", "replicaSpecs", "ascend", "ascendjob-port"),
        ("pytorchjob", "pytorchReplicaSpecs", "pytorch", "pytorchjob-port"),
    ):
        assert kit("cluster", hidream, "--for", kind, "--image", "i", "--machines", "4").status == 0
        found = manifest(Path.cwd(), kind)
        roles = found["spec"][specs]
        assert [(role, roles[role]["replicas"]) for role in roles] == [("Master", 1), ("Worker", 3)]
        for role in roles.values():
            (one,) = role["template"]["spec"]["containers"]
            assert one["name"] == container and one["ports"][0]["name"] == port
            cards = one.get("resources", {}).get("limits", {})
            assert one.get("resources", {}).get("requests", {}) == cards
            assert list(cards.values()) == ([] if device == "cpu" else [8])
            assert role["restartPolicy"] == role["template"]["spec"]["restartPolicy"]
        assert found["spec"]["runPolicy"]["schedulingPolicy"]["minAvailable"] == 4
    assert found["spec"]["nprocPerNode"] == ("1" if device == "cpu" else "8")
    Path("kit-ascendjob.sh").unlink()
    assert kit("cluster", hidream, "--for", "ascendjob", "--image", "i", "--machines", "1").status == 0
    found = manifest(Path.cwd(), "ascendjob")
    assert found["metadata"]["labels"]["framework"] == "pytorch" and list(found["spec"]["replicaSpecs"]) == ["Master"]
    assert kit("cluster", hidream, "--for", "volcano", "--image", "i").status == 0
    found = manifest(Path.cwd(), "volcano", machines="5")["spec"]
    assert (found["minAvailable"], [task["replicas"] for task in found["tasks"]]) == (5, [5])
    assert {"env", "svc"} <= found["plugins"].keys() and found["schedulerName"] == "volcano"


def test_which_launch_script(kit: Kit, tmp_path: Path) -> None:
    """The one that is for several machines, where there is one; sdxl's goes on by --resume, and saves states for it."""
    place = made(tmp_path / "sdxl", "sdxl", "npu")
    assert kit("cluster", place, "--for", "slurm").status == 0
    text = Path("kit-slurm.sh").read_text()
    assert "pretrain_full_nm_np_sdxl.sh" in text and "options=(--resume=latest --save_state=true)" in text
    assert "#SBATCH --gres=npu:8\n" in text
    done = kit("cluster", place, "--for", "slurm")
    assert done.status == 0, "the same again is no other"
    done = kit("cluster", place, "--for", "slurm", "--machines", "4")
    assert done.status == 1 and "kit-slurm.sh is there, and other than" in done.err
    done = kit("cluster", place, "--for", "slurm", "--script", "pretrain_full_1m_8p_sdxl.sh", "--machines", "2")
    assert done.status == 1 and "is for one machine" in done.err and "pretrain_full_nm_np_sdxl.sh" in done.err
    done = kit("cluster", place, "--for", "slurm", "--script", "pretrain_full_8p_sdxl.sh")
    assert done.status == 1 and "did you mean" in done.err
    done = kit("cluster", made(tmp_path / "sd3", "sd3", "npu"), "--for", "slurm")
    assert done.status == 1 and "which launch script?" in done.err
    Path("kit-slurm.sh").unlink()
    done = kit("cluster", made(tmp_path / "lokr", "hidream-lokr", "npu"), "--for", "slurm")
    assert done.status == 0 and "on 1 machine," in Path("kit-slurm.sh").read_text()


def test_a_workspace_of_a_stranger_puts_nothing_into_the_script(kit: Kit, tmp_path: Path) -> None:
    place = made(tmp_path / "it", "hidream", "npu")
    table = next(place.glob("**/programs.json"))
    table.write_text(table.read_text().replace('"output": "output_dir"', '"output": "o; rm -rf ~"'))
    done = kit("cluster", place, "--for", "slurm")
    assert done.status == 1 and "'o; rm -rf ~' is no name" in done.err and not Path("kit-slurm.sh").exists()
    table.write_text('{"it.sh": []}')
    done = kit("cluster", place, "--for", "slurm")
    assert done.status == 1 and "is none of kit's" in done.err


def test_modelarts_is_told_words_as_they_are(hidream: Path, kit: Kit, tmp_path: Path) -> None:
    """Through two shells: this one's, and the container's."""
    assert kit("cluster", hidream, "--for", "modelarts", "--image", "i", "--machines", "4").status == 0
    stub = tmp_path / "bin/ma-cli"
    stub.parent.mkdir()
    stub.write_text('#!/bin/bash\nprintf "%s\\0" "$@"\n')
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "mount": str(hidream.parent)}
    command = ["bash", "kit-modelarts.sh", ODD]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode and "flavor: say which flavor" in done.stderr
    environment |= {"flavor": "f", "pool": "p", "logs": "obs://l/"}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split("\0")
    words = dict(zip(said[2:-1:2], said[3::2], strict=False))
    assert (words["--train-instance-count"], words["--image-url"], words["--pool-id"]) == ("4", "i", "p")
    script = next(hidream.glob("**/finetune_*.sh"))
    script.write_text("printf '%s\\n' \"$@\"\n")
    told = subprocess.run(["bash", "-c", words["--user-command"]], capture_output=True, text=True)
    assert told.stdout.splitlines() == ["--resume_from_checkpoint=latest", ODD], told.stderr
