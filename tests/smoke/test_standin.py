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

GREEN = {
    "version gives it away": """
from importlib.metadata import version
assert version("torch_npu") == torch_npu.__version__ == torch.__version__.split("+")[0] + "+kit.standin" """,
    "copies both ways": "assert torch.equal(cpu.npu().cpu(), cpu) and cpu.to('npu:1').device.index == 1",
    "between devices": "assert x.to('npu:1').sum().item() == 12",
    "views share memory": """
a = torch.arange(12.0, device="npu").view(3, 4)
a[1:].t().zero_()
assert a.sum().item() == 6 and a[1:].data_ptr() == a.data_ptr() + 16""",
    "out= resizes": """
out = torch.empty(0, device="npu")
torch.add(x, 1, out=out)
assert out.shape == x.shape and out.sum().item() == 24""",
    "set_ and resize_": """
a = torch.empty(0, device="npu").set_(x.untyped_storage(), 4, (4,), (1,))
assert a.data_ptr() == x.data_ptr() + 16
a.resize_(100)
assert a.numel() == 100 and a.device == x.device""",
    "CPU scalars where devices take them": """
half = torch.tensor(0.5)
assert (x * half).device == x.device and x.masked_fill(x > 0, half).sum() == 6 and (x > half).all()
assert (torch.arange(4, device="npu") // 2).sum() == 2 and x[torch.tensor([0])].shape == (1, 4)""",
    "complex": "assert torch.view_as_complex(torch.ones(3, 2, device='npu')).mul(1j).conj().imag.sum().item() == -3",
    "same gradients as the CPU": """
import copy
layers = nn.Conv2d(3, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU(), nn.ConvTranspose2d(4, 2, 2, 2), nn.Flatten()
model = nn.Sequential(*layers, nn.LayerNorm(128), nn.Linear(128, 1))
here, there = model, copy.deepcopy(model).npu()
data = torch.randn(2, 3, 4, 4)
here(data).sum().backward()
there(data.npu()).sum().backward()
for p, q in zip(here.parameters(), there.parameters()):
    assert q.grad.is_npu
    torch.testing.assert_close(p.grad, q.grad.cpu())""",
    "group norm of channels-last input": """
here, there = nn.GroupNorm(2, 4), nn.GroupNorm(2, 4).npu()
a = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last).requires_grad_()
b = a.detach().npu().requires_grad_()
assert b.is_contiguous(memory_format=torch.channels_last)
here(a).square().sum().backward()
there(b).square().sum().backward()
torch.testing.assert_close(b.grad.cpu(), a.grad)
torch.testing.assert_close(there.weight.grad.cpu(), here.weight.grad)
assert there.half()(b.half()).dtype == torch.float16""",
    "autocast": """
for dtype in torch.bfloat16, torch.float16:
    with torch.autocast("npu", dtype=dtype):
        assert (x @ x.t()).dtype == dtype and x.to(dtype).softmax(-1).dtype == torch.float32
        assert (cpu @ cpu.t()).dtype == torch.float32""",
    "half conv and norm": """
model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)).half().npu()
out = model(torch.ones(1, 3, 5, 5, device="npu").half())
out.sum().backward()
assert out.dtype == torch.float16 and model[0].weight.grad.dtype == torch.float16""",
    "GradScaler": """
model = nn.Linear(3, 1).npu()
optimizer, scaler = torch.optim.SGD(model.parameters(), 0.1), torch.npu.amp.GradScaler(init_scale=4.0)
for factor, scale in (float("inf"), 2.0), (1.0, 2.0):
    before = model.weight.detach().clone()
    with torch.npu.amp.autocast():
        loss = model(torch.ones(2, 3, device="npu")).sum() * factor
    optimizer.zero_grad()
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == scale
    assert torch.equal(model.weight, before) == (factor != 1.0)""",
    "save and load": """
file = io.BytesIO()
torch.save({"x": x, "model": nn.Linear(2, 2).npu().state_dict()}, file)
for where, device in (None, "npu:0"), ("cpu", "cpu"), ("npu:1", "npu:1"):
    file.seek(0)
    assert str(torch.load(file, map_location=where)["x"].device) == device""",
}

# Of torch_npu only.
GREEN_NPU = {
    "to() keeps Parameters": """
model = nn.Linear(3, 1)
before = model.weight.detach().clone()
optimizer = torch.optim.AdamW(model.parameters())
ids = [id(p) for p in model.parameters()]
model.to("npu")
assert ids == [id(p) for p in model.parameters()] and model.weight.is_npu
model(torch.ones(2, 3, device="npu")).sum().backward()
optimizer.step()
assert (model.weight.cpu() != before).all()""",
    "random streams of its own": """
before = torch.get_rng_state()
torch.npu.manual_seed(1)
a = torch.randn(4, device="npu"), torch.dropout(torch.ones(9, device="npu"), 0.5, True), torch.randperm(9, device="npu")
assert torch.equal(before, torch.get_rng_state())
torch.manual_seed(1)
b = torch.randn(4, device="npu"), torch.dropout(torch.ones(9, device="npu"), 0.5, True), torch.randperm(9, device="npu")
assert all(torch.equal(p, q) for p, q in zip(a, b))
generator = torch.Generator("npu").manual_seed(1)
assert torch.equal(torch.randn(4, device="npu", generator=generator), a[0])
state = torch.npu.get_rng_state()
c = torch.rand(3, device="npu")
torch.npu.set_rng_state(state)
assert torch.equal(c, torch.rand(3, device="npu"))""",
    "pinned batches": """
for workers in 0, 1:
    data = torch.utils.data.DataLoader(
        torch.arange(4.0), 2, pin_memory=True, pin_memory_device="npu", num_workers=workers)
    for batch in data:
        assert batch.is_pinned() and batch.npu(non_blocking=True).is_npu
assert cpu.pin_memory().is_pinned() and not cpu.is_pinned()""",
    "memory is counted": """
before = torch.npu.memory_allocated()
a = torch.empty(1 << 20, device="npu")
assert torch.npu.memory_allocated() - before == 4 << 20
del a
assert torch.npu.memory_allocated() == before and torch.npu.max_memory_allocated() >= before + (4 << 20)""",
    "checkpointing": """
from torch.utils.checkpoint import checkpoint
a = x.clone().requires_grad_()
out = checkpoint(lambda a: torch.dropout(a, 0.5, True) * a, a, use_reentrant=False)
out.sum().backward()
assert torch.equal(a.grad, 2 * out)""",
    "the scaler goes by torch_npu's own flag": """
parameter = nn.Parameter(x[0].clone())
optimizer = torch.optim.SGD([parameter], 1.0)

def step(scaler, factor):
    scaler.scale((parameter * factor).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
    return scaler.get_scale(), round(parameter.sum().item())

scaler = torch.npu.amp.GradScaler(4.0, growth_interval=2)
assert [step(scaler, f) for f in (1, float("inf"), 1, 1)] == [(4, 0), (2, 0), (2, -4), (4, -8)]
scaler.scale(parameter.sum()).backward()
scaler.unscale_(optimizer)
for found in scaler._per_optimizer_states[id(optimizer)]["found_inf_per_device"].values():
    found.fill_(1)
scaler.step(optimizer)
scaler.update()
assert scaler.get_scale() == 4 and round(parameter.sum().item()) == -8  # skipped, and the scale does not know
static = torch.npu.amp.GradScaler(4.0, dynamic=False)
optimizer.zero_grad()
assert step(static, 1) == (4, -12)
scaler.load_state_dict(static.state_dict())
assert scaler.state_dict()["dynamic"] is False""",
    "fused attention": """
q, k, v = (torch.randn(2, 5, 4, 8, device="npu", requires_grad=True) for _ in range(3))
out = torch_npu.npu_fusion_attention(q, k, v, 4, "BSND", scale=8**-0.5)[0]
heads = [t.detach().cpu().transpose(1, 2).requires_grad_() for t in (q, k, v)]
want = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2)
torch.testing.assert_close(out.cpu(), want)
out.square().sum().backward()
want.square().sum().backward()
torch.testing.assert_close(k.grad.cpu(), heads[1].grad.transpose(1, 2))
mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
flat = [t.detach().flatten(2) for t in (q, k, v)]
out = torch_npu.npu_fusion_attention(*flat, 4, "BSH", atten_mask=mask.npu(), scale=8**-0.5)[0]
want = nn.functional.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).flatten(2)
torch.testing.assert_close(out.cpu(), want)""",
    "kernels under autocast": """
for dtype in torch.bfloat16, torch.float16:
    q, k, v = (torch.randn(2, 6, 4, 8, device="npu", dtype=dtype, requires_grad=True) for _ in range(3))
    mask = torch.zeros(6, 6, dtype=torch.bool, device="npu")
    mask[:, 5:] = True
    want = torch_npu.npu_fusion_attention(q, k[:, :5], v[:, :5], 4, "BSND", scale=8**-0.5)[0]
    with torch.npu.amp.autocast(dtype=dtype):
        out = torch_npu.npu_fusion_attention(q, k, v, 4, "BSND", atten_mask=mask, scale=8**-0.5)[0]
        assert out.dtype == dtype and torch_npu.npu_rms_norm(q, q.detach()[0, 0, 0])[0].dtype == dtype
    assert torch.equal(out, want)
    out.float().sum().backward()
    assert q.grad.dtype == dtype and q.grad.isfinite().all()""",
    "rms norm": """
a, w = torch.randn(2, 3, 8), torch.randn(8)
out, rstd = torch_npu.npu_rms_norm(a.npu(), w.npu(), epsilon=1e-5)
torch.testing.assert_close(out.cpu(), a / (a.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w)
assert rstd.shape == (2, 3, 1)""",
    "rotary": """
a, angle = torch.randn(1, 5, 2, 8), torch.randn(1, 5, 1, 4)
for mode, table in ("half", angle.repeat(1, 1, 1, 2)), ("interleave", angle.repeat_interleave(2, -1)):
    out = torch_npu.npu_rotary_mul(a.npu(), table.cos().npu(), table.sin().npu(), mode).cpu()
    pairs = a.unflatten(-1, (2, 4)).transpose(-1, -2) if mode == "half" else a.unflatten(-1, (4, 2))
    want = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.exp(1j * angle))
    want = want.transpose(-1, -2).flatten(-2) if mode == "half" else want.flatten(-2)
    torch.testing.assert_close(out, want)""",
    "geglu": """
a = torch.randn(3, 8)
left, right = a.chunk(2, -1)
torch.testing.assert_close(torch_npu.npu_geglu(a.npu(), -1, 0)[0].cpu(), left * nn.functional.gelu(right))""",
    "grouped matmul": """
a, w = torch.randn(6, 4).bfloat16(), [torch.randn(4, 3).bfloat16() for _ in range(3)]
sizes = torch.tensor([1, 0, 5], device="npu")
out = torch_npu.npu_grouped_matmul([a.npu()], [m.npu() for m in w], group_list=sizes, split_item=2, group_type=0,
                                   group_list_type=1)[0]
torch.testing.assert_close(out.cpu(), torch.cat([a[:1] @ w[0], a[1:] @ w[2]]))""",
    "torch's autocast lists": """
listed = torch._C._dispatch_get_registrations_for_dispatch_key
refused_there = "aten::binary_cross_entropy"
cuda = {name for name in listed("AutocastCUDA") if "cudnn" not in name and name != refused_there}
assert set(listed("AutocastPrivateUse1")) == cuda""",
}

# Of torch_tpu 2.1.0.post1 only.
GREEN_TPU = {
    "to() replaces Parameters": """
model = nn.Linear(3, 1)
before = model.weight
optimizer = torch.optim.AdamW(model.parameters())
model.to("npu")
assert model.weight is not before and model.weight.is_npu
model(torch.ones(2, 3, device="npu")).sum().backward()
start = model.weight.detach().clone()
optimizer.step()
assert torch.equal(model.weight, start)  # the optimizer has the Parameters that were replaced""",
    "draws from the CPU's stream": """
torch.manual_seed(1)
a = torch.randn(4, device="npu"), torch.dropout(torch.ones(9, device="npu"), 0.5, True)
torch.manual_seed(1)
b = torch.randn(4), torch.dropout(torch.ones(9), 0.5, True)
assert all(p.is_npu and torch.equal(p.cpu(), q) for p, q in zip(a, b))
torch.Generator("npu").manual_seed(1)""",
}

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

RED = {
    "sum of two devices": ("x + cpu", "RuntimeError: Expected all tensors to be on the same device"),
    "in place": ("x.add_(cpu)", "RuntimeError: Expected all tensors to be on the same device"),
    "product": ("x @ cpu.t()", "at least two devices, npu:0 and cpu! (argument mat2 of aten::mm)"),
    "linear": ("nn.Linear(4, 2)(x)", "RuntimeError: Expected all tensors to be on the same device"),
    "convolution": ("nn.Conv2d(3, 4, 1)(x.view(1, 3, 2, 2))", "(argument weight of aten::convolution)"),
    "cat": ("torch.cat([x, cpu])", "(argument tensors of aten::cat)"),
    "stacked scalars": ("torch.stack([x.sum(), cpu.sum()])", "at least two devices, npu:0 and cpu!"),
    "indices to scatter by": ("x.scatter_add(0, torch.zeros(1, 4).long(), x)", "at least two devices"),
    "where": ("torch.where(x > 0, x, cpu)", "at least two devices"),
    "embedding": ("nn.functional.embedding(torch.tensor([1]), x)", "at least two devices"),
    "two npus": ("x + x.to('npu:1')", "at least two devices, npu:0 and npu:1!"),
    "optimizer on two devices": (
        "p = nn.Parameter(x.clone()); o = torch.optim.AdamW([p], fused=False, foreach=False); p.sum().backward();"
        "o.step(); o.state[p]['exp_avg'] = o.state[p]['exp_avg'].cpu(); o.step()",
        "at least two devices",
    ),
    "numpy of it": ("numpy.asarray(x)", "TypeError: can't convert npu:0 device type tensor to numpy"),
    "no such device": ("x.to('npu:99')", "RuntimeError: invalid device ordinal: npu:99"),
    "the CPU's generator": (
        "torch.randn(2, device='npu', generator=torch.Generator())",
        "RuntimeError: Expected a 'npu' device type for generator but found 'cpu'",
    ),
    "float64 arange": (
        "torch.arange(4, dtype=torch.float64, device='npu')",
        "RuntimeError: aten::arange is not implemented for Double on npu",
    ),
    "float64 product": ("x.double() * 2", "RuntimeError: aten::mul is not implemented for Double on npu"),
    "missing name": ("torch_npu.npu_no_such_thing", "AttributeError: module 'torch_npu' has no attribute"),
    "missing in torch.npu": ("torch.npu.no_such_thing", "AttributeError"),
    "the device after a fork": (
        "import multiprocessing as mp\n"
        "def child(queue):\n"
        "    try: queue.put(str(x.sum()))\n"
        "    except RuntimeError as error: queue.put(str(error))\n"
        "queue = mp.get_context('fork').Queue()\n"
        "process = mp.get_context('fork').Process(target=child, args=(queue,)); process.start()\n"
        "raise RuntimeError(queue.get(timeout=60))",
        "Cannot re-initialize npu in forked subprocess",
    ),
}

ATTENTION = "torch_npu.npu_fusion_attention(*[torch.ones(1, 2, 3, 4, {})] * 3, {})"
RED_NPU = {
    "wrong keyword": (
        ATTENTION.format("device='npu'", "3, 'BSND', scale_value=1.0"),
        "TypeError: npu_fusion_attention() got an unexpected keyword argument 'scale_value'",
    ),
    "attention on the CPU": (ATTENTION.format("device='cpu'", "3, 'BSND'"), "RuntimeError: npu_fusion_attention: "),
    "attention of integers": (
        ATTENTION.format("device='npu', dtype=torch.int32", "3, 'BSND'"),
        "dtype must be float16",
    ),
    "attention, wrong heads": (ATTENTION.format("device='npu'", "2, 'BSND'"), "query has 3 heads and head_num is 2"),
    "attention, wrong layout": (ATTENTION.format("device='npu'", "3, 'BSDN'"), "no layout 'BSDN'"),
    "norm, two dtypes": ("torch_npu.npu_rms_norm(x.half(), x[0])", "dtypes must be the same"),
    "norm, two devices": ("torch_npu.npu_rms_norm(x, cpu[0])", "gamma is on cpu"),
    "rotary, wide table": (
        "torch_npu.npu_rotary_mul(*[torch.ones(2, 3, 2, 4, device='npu')] * 3, 'interleave')",
        "interleave mode takes r1 as 11SD, 1S1D or S11D",
    ),
    "grouped matmul with gradients": (
        "a = x.bfloat16().requires_grad_(); torch_npu.npu_grouped_matmul([a], [a.t()] * 2, split_item=2, group_type=0,"
        "group_list=torch.tensor([1, 2], device='npu'), group_list_type=1)",
        "it has no backward",
    ),
    "a loss on the CPU": ("torch.npu.amp.GradScaler().scale(cpu.sum())", "Device type of outputs should be npu"),
    "unknown setting": ("torch.npu.config.no_such_thing = 1", "AttributeError"),
}

RED_TPU = {
    "collectives": (
        "torch.distributed.init_process_group('sccl', store=torch.distributed.HashStore(), rank=0, world_size=1)",
        "Unknown c10d backend type SCCL",
    ),
    "what torch_npu has": ("torch.npu.manual_seed_all(1)", "module 'torch_npu.npu' has no attribute 'manual_seed_all'"),
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
