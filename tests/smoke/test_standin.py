"""The stand-in devices: what works on a device works on them, what fails there fails, and they say what they are.

Programs run many snippets to a process: importing torch is most of the time. With torch 2.7.1 they run in the reference
environment of hidream, with torch 2.1.0, whose only devices are CUDA's in much of its Python, in small ones made here.
"""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from standin_cases import GREEN, GREEN_NPU, GREEN_TPU, RED, RED_NPU, RED_TPU

from kit import devices, environment

STANDIN = Path(__file__).parents[2] / "kit" / "smoke" / "standins"


@dataclass(frozen=True)
class Platform:
    """A stand-in for ``device`` with a version of torch, and the packages of the environment it runs in."""

    device: str
    torch: str
    python: str
    packages: tuple[str, ...] = ()  # none: hidream's reference environment

    def __str__(self) -> str:
        return f"{self.device}, torch {self.torch}, Python {self.python}"


OLD = ("torch==2.1.0", "numpy<2", "setuptools==69.5.1", "ninja")  # accelerate needs numpy 1, DeepSpeed pkg_resources
NEW = Platform("npu", "2.7.1", "3.10")
SD3 = Platform("npu", "2.1.0", "3.10", (*OLD, "accelerate==0.33.0", "deepspeed==0.15.2", "transformers==4.47.1"))
SOPHGO = Platform("tpu", "2.1.0", "3.9", (*OLD, "accelerate==0.16.0"))
SDXL = Platform("npu", "2.1.0", "3.8", (*OLD, "accelerate==0.23.0"))
PLATFORMS = (NEW, SD3, SOPHGO, SDXL)

# Runs the snippets of the JSON file in argv[1], each in a copy of the same names; prints {name: "" or "Type: message"}.
# They are written for the NPU, and turned into another device's by its name.
RUNNER = """
import io, json, sys
import numpy, torch, torch_npu
from torch import nn
names = {**globals(), "x": torch.ones(3, 4, device="npu"), "cpu": torch.ones(3, 4)}
results = {}
for name, code in json.load(open(sys.argv[1])).items():
    try:
        exec(code, dict(names))
        results[name] = ""
    except BaseException as error:
        results[name] = f"{type(error).__name__}: {error}"
print(json.dumps(results))
"""

# What the libraries of a platform make of its device.
LIBRARIES = {
    NEW: """
import accelerate.utils, diffusers.utils, transformers.utils
assert torch.accelerator.current_accelerator().type == "npu" and torch.npu.is_available()
assert accelerate.utils.is_npu_available(check_device=True)
assert transformers.utils.is_torch_npu_available(check_device=True) and diffusers.utils.is_torch_npu_available()
assert accelerate.Accelerator().device.type == "npu" """,
    SD3: """
import accelerate.utils, transformers.utils
assert accelerate.utils.is_npu_available(check_device=True)
assert transformers.utils.is_torch_npu_available(check_device=True)
accelerator = accelerate.Accelerator(mixed_precision="fp16")
assert accelerator.device.type == "npu" and isinstance(accelerator.scaler, torch.npu.amp.GradScaler)""",
    SOPHGO: """
import accelerate, os
os.environ["ACCELERATE_TORCH_DEVICE"] = "tpu:0"
assert accelerate.Accelerator().device == torch.device("tpu", 0)""",
    SDXL: """
import accelerate
accelerator = accelerate.Accelerator(mixed_precision="fp16")
assert accelerator.device.type == "npu" and isinstance(accelerator.scaler, torch.npu.amp.GradScaler)""",
}

TWO_PROCESSES = """
import torch, torch.distributed as dist, torch_npu
dist.init_process_group("hccl")
rank = dist.get_rank()
torch.npu.set_device(rank)
npu = torch.device("npu", rank)
try:
    dist.all_reduce(torch.ones(1))
except RuntimeError as error:
    assert "device type cpu" in str(error), error
else:
    raise AssertionError("hccl took a CPU tensor")
for dtype in torch.float32, torch.bfloat16, torch.float16, torch.int64:
    total = torch.full((4,), rank + 1, device=npu, dtype=dtype)
    dist.all_reduce(total)
    assert total.tolist() == [3] * 4 and total.device == npu, dtype
gathered = torch.empty(4, device=npu)
dist.all_gather_into_tensor(gathered, torch.full((2,), float(rank), device=npu))
assert gathered.tolist() == [0, 0, 1, 1]
for dtype in torch.bfloat16, torch.bool:
    told = torch.tensor([rank == 0, True], device=npu).to(dtype)
    dist.broadcast(told, 0)
    assert told.tolist() == [1, 1], dtype
part = torch.empty(2, device=npu)
dist.reduce_scatter_tensor(part, torch.arange(4.0, device=npu))
assert part.tolist() == [[0, 2], [4, 6]][rank]
objects = [None, None]
dist.all_gather_object(objects, {"rank": rank})
assert objects == [{"rank": 0}, {"rank": 1}]
dist.barrier()

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = torch.nn.Linear(3, 1), torch.nn.Linear(1, 1)

    def forward(self, x):
        return self.used(x)

for views in False, True:
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(
        Model().to(npu), device_ids=[rank], find_unused_parameters=True, gradient_as_bucket_view=views)
    optimizer = torch.optim.AdamW(model.parameters())
    before = model.module.used.weight.detach().clone()
    for step in range(2):
        model(torch.full((2, 3), rank + 1.0, device=npu)).sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(g.device == npu for g in grads) and grads[0].tolist() == [[3.0] * 3], grads
        optimizer.step()
        optimizer.zero_grad()
    assert (model.module.used.weight != before).all()

import deepspeed
for name, more, dtype in ("bf16", {}, torch.bfloat16), ("fp16", {"initial_scale_power": 4}, torch.float16):
    model = torch.nn.Linear(3, 2)
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.1), config={
            "train_micro_batch_size_per_gpu": 1, name: {"enabled": True, **more}, "gradient_clipping": 1.0,
            "zero_optimization": {"stage": 2}, "zero_allow_untested_optimizer": True})
    before = engine.module.weight.detach().clone()
    for step in range(2):
        engine.backward(engine(torch.full((1, 3), rank + 1.0, device=npu, dtype=dtype)).float().sum())
        engine.step()
    assert engine.module.weight.is_npu and (engine.module.weight != before).all(), name
print(f"rank {rank} done")
dist.destroy_process_group()
"""


@dataclass(frozen=True)
class Standin:
    """An environment's Python, the cache its stand-in was built in, and the environment variables to use it."""

    python: Path
    cache: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def standins(
    cache: Path,
    installed: Callable[..., Path],
    hidream_env: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Platform], Standin]:
    """``standins(platform)``: made on first use. Environments and backends are kept in the tests' cache."""

    @functools.cache
    def make(platform: Platform) -> Standin:
        name = f"standin-{platform.device}-torch{platform.torch}-{platform.python}"
        python = installed(name, platform.python, platform.packages) if platform.packages else hidream_env
        built = _build(python, cache / "standins", platform.device)
        assert built.returncode == 0, built.stderr
        ours = {
            "PYTHONPATH": built.stdout.splitlines()[-1],
            "ASCEND_HOME_PATH": str(tmp_path_factory.mktemp("ascend")),
            "OMP_NUM_THREADS": "1",
            "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]]),
            "DS_ACCELERATOR": "npu",
            "HF_HUB_OFFLINE": "1",
        }
        return Standin(python, cache / "standins", {**environment.variables(), **ours})

    return make


@pytest.fixture(scope="module")
def standin(standins: Callable[[Platform], Standin]) -> Standin:
    return standins(NEW)


def _build(python: Path, cache: Path, device: str = "npu", **variables: str) -> subprocess.CompletedProcess[str]:
    command = [python, STANDIN / "build.py", "--device", device, cache]
    given = {**environment.variables(), **variables}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=given)


def _green(platform: Platform) -> dict[str, str]:
    own = GREEN_TPU if platform.device == "tpu" else GREEN_NPU
    return {**GREEN, **own, "libraries see it": LIBRARIES[platform]}


def _red(platform: Platform) -> dict[str, tuple[str, str]]:
    return {**RED, **(RED_TPU if platform.device == "tpu" else RED_NPU)}


def _on(platform: Platform, text: str) -> str:
    """What is written for the NPU, of the platform's device."""
    return re.sub(r"(?<![a-z])npu", platform.device, text)


@pytest.fixture(scope="module")
def outcomes(
    standins: Callable[[Platform], Standin], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Platform], dict[str, str]]:
    """``outcomes(platform)``: what became of each of its snippets: nothing, or its error."""

    @functools.cache
    def run(platform: Platform) -> dict[str, str]:
        standin = standins(platform)
        snippets = {**_green(platform), **{name: code for name, (code, _) in _red(platform).items()}}
        folder = tmp_path_factory.mktemp("snippets")
        (folder / "snippets.json").write_text(
            json.dumps({name: _on(platform, code) for name, code in snippets.items()})
        )
        command = [standin.python, "-c", _on(platform, RUNNER), folder / "snippets.json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=standin.variables, cwd=folder)
        assert done.returncode == 0, done.stderr
        results: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
        return results

    return run


def _cases(table: Callable[[Platform], Mapping[str, object]]) -> pytest.MarkDecorator:
    cases = [(platform, name) for platform in PLATFORMS for name in table(platform)]
    return pytest.mark.parametrize(("platform", "name"), cases, ids=[f"{name} ({where})" for where, name in cases])


@_cases(_green)
def test_works_as_on_a_device(platform: Platform, name: str, outcomes: Callable[[Platform], dict[str, str]]) -> None:
    assert outcomes(platform)[name] == ""


@_cases(_red)
def test_fails_as_on_a_device(platform: Platform, name: str, outcomes: Callable[[Platform], dict[str, str]]) -> None:
    assert _on(platform, _red(platform)[name][1]) in outcomes(platform)[name]


def test_signatures_are_the_published_ones(standin: Standin) -> None:
    published = {name: asdict(each) for name, each in devices.signatures("npu").items() if not each.any}
    program = """
import functools, inspect, json, sys, torch, torch_npu
empty = inspect.Parameter.empty
found = {}
for name in json.loads(sys.argv[1]):
    package, *path = name.split(".")
    try:
        parameters = inspect.signature(functools.reduce(getattr, path, sys.modules[package])).parameters
    except (AttributeError, NotImplementedError):  # the stand-in has what recipes call, not all there is
        continue
    found[name] = {
        "parameters": list(parameters),
        "keyword_only": [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY],
        "optional": [p.name for p in parameters.values() if p.default is not empty],
        "any": False,
    }
print(json.dumps(found))
"""
    command = [standin.python, "-c", program, json.dumps(list(published))]
    ours = json.loads(subprocess.check_output(command, env=standin.variables))
    assert "torch_npu.npu_fusion_attention" in ours and "torch.npu.amp.GradScaler" in ours
    assert ours == json.loads(json.dumps({name: published[name] for name in ours}))


def test_says_what_it_is_once_and_counts_calls(standin: Standin, tmp_path: Path) -> None:
    log = tmp_path / "calls.jsonl"
    program = (
        "import subprocess, sys, torch, torch_npu; torch_npu.npu_geglu(torch.ones(2, device='npu'));"
        "subprocess.run([sys.executable, '-c', 'import torch'], check=True)"
    )
    variables = {**standin.variables, "KIT_STANDIN_CALLS": str(log), "KIT_STANDIN_DEVICES": "2"}
    done = subprocess.run([standin.python, "-c", program], capture_output=True, text=True, env=variables, check=True)
    assert done.stderr.count("torch_npu: this is kit's stand-in") == 1
    assert "running on the CPU" in done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(line["calls"].get("npu_geglu", 0) for line in lines) == [0, 1]


def test_without_its_folder_there_is_no_npu(standin: Standin) -> None:
    program = "import torch, importlib.util as u; print(hasattr(torch, 'npu'), u.find_spec('torch_npu'))"
    variables = {key: value for key, value in standin.variables.items() if key != "PYTHONPATH"}
    assert subprocess.check_output([standin.python, "-c", program], env=variables, text=True).strip() == "False None"


@pytest.mark.parametrize("platform", [NEW, SD3], ids=str)
def test_two_processes_hccl_ddp_and_deepspeed(
    platform: Platform, standins: Callable[[Platform], Standin], tmp_path: Path
) -> None:
    standin = standins(platform)
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    command = [standin.python, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=standin.variables, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "rank 0 done" in done.stdout and "rank 1 done" in done.stdout


def test_builds_once(standin: Standin) -> None:
    before = sorted(standin.cache.iterdir())
    again = _build(standin.python, standin.cache, CXX="g++")
    assert again.stdout.strip() == standin.variables["PYTHONPATH"]
    assert "building" not in again.stderr
    assert sorted(standin.cache.iterdir()) == before


def test_a_missing_compiler_is_one_line(hidream_env: Path, tmp_path: Path) -> None:
    done = _build(hidream_env, tmp_path, CXX="no-such-compiler")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("build.py: error: no no-such-compiler: the stand-in device is built")
    assert "Traceback" not in done.stderr
