"""Snippets for the stand-in devices: what works on the device, and what fails there, with what it says."""

from __future__ import annotations

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
