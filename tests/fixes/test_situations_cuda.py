"""`kit fix` on scripts of other shapes: what names CUDA alone."""

from __future__ import annotations

import pytest
from situations import Given, check, left, looks, mended, refused

CHOSEN, NAMED = "a choice between CUDA and the CPU, and no other device", "something placed on CUDA by name"


def _says(id: str, line: str, at: int = 3, what: str = CHOSEN) -> object:
    return looks(id, "device-placement", at, what, f"import os\nimport torch\n{line}\n")


def _left(id: str, line: str) -> object:
    return left(id, "device-placement", f"import torch\n{line}\n")


def _scaler(id: str, line: str, what: str = "a gradient scaler of CUDA alone") -> object:
    text = f"import os\nimport torch\n{line}\n"
    return looks(id, "device-scaler", 3, what, text) if what else left(id, "device-scaler", text)


# Where there is no CUDA, what such a script trains on is the CPU.
CHOICES = [
    _says("by a name, without accelerate", 'device = "cuda" if torch.cuda.is_available() else "cpu"'),
    _says("by a switch", 'd = "cuda" if args.gpu else "cpu"'),
    _says(
        "with a Mac's", 'd = torch.device("cuda:0" if f() else "mps" if torch.backends.mps.is_available() else "cpu")'
    ),
    _says("the other way round", 'model.to("cpu" if not torch.cuda.is_available() else "cuda")'),
    _says(
        "with a card's number", 'd = torch.device("cuda", rank) if torch.cuda.is_available() else torch.device("cpu")'
    ),
    _says("for whoever runs it", 'p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")'),
    _says("in a default", 'def f(x, device="cuda" if torch.cuda.is_available() else "cpu"):\n    pass'),
    _says("by an if", 'if torch.cuda.is_available():\n    device = "cuda"\nelse:\n    device = "cpu"', 4, NAMED),
    _says("kept in a name", 'name = "cuda:0"\nmodel.to(name)', 3, NAMED),
    _says("kept by the trainer", 'self.device = f"cuda:{rank}"', 3, NAMED),
    _says("a map", 'load(path, device_map="cuda")', 3, NAMED),
    _says("for everything", 'torch.set_default_device("cuda")', 3, NAMED),
    _says("where a file goes", 'load(torch.load(path, "cuda"))', 3, NAMED),
    _says("a map of parts", 'load(path, device_map={"": "cuda:0"})', 3, NAMED),
    _says("in words", 'd = torch.cuda.is_available() and "cuda" or "cpu"'),
    _says("where nothing is asked for", 'device = args.device or "cuda"', 3, NAMED),
    _says("where nothing is asked for, placed", 'x.to(args.device or "cuda:0")', 3, NAMED),
    _says("a card by its number", 'x.to("cuda:%d" % rank)', 3, NAMED),
    _says("a card by its number, added", 'device = "cuda:" + str(accelerator.local_process_index)', 3, NAMED),
    _says("a card by its number, filled in", 'device = "cuda:{}".format(rank)', 3, NAMED),
    _says("CUDA's own autocast", "with torch.cuda.amp.autocast():\n    train()", 3, NAMED),
    _says("handed on in part", 'mixed = functools.partial(torch.autocast, "cuda")', 3, NAMED),
    _says("the card of the process", "x.to(torch.cuda.current_device())", 3, NAMED),
    _says(
        "the card of the process, for all parts", 'load(path, device_map={"": torch.cuda.current_device()})', 3, NAMED
    ),
    _says("which card", "torch.cuda.set_device(local_rank)", 3, NAMED),
    _says("a default that is relied on", 'def f(x, device="cuda:0"):\n    return x.to(device)\nf(1)', 3, NAMED),
    _says("a class's default", 'class A:\n    def __init__(self, device="cuda"):\n        pass\nA()', 4, NAMED),
    _says("a method's default", 'class A:\n    def f(self, x, device="cuda"):\n        pass\na.f(1)', 4, NAMED),
    _left(
        "a default that is not relied on",
        'def f(x, device="cuda", scale=1, name="cuda"):\n    return x.to(device)\nabs(f(1, d))\nprint(f(1, device=d))',
    ),
    _left("a default that may be relied on", 'def f(x, device="cuda"):\n    return x.to(device)\nf(*x)\nf(1, **d)'),
    _left("another's of its name", 'def load(x, device="cuda"):\n    return x.to(device)\nmodel.load(1)'),
    _left("not made with it", 'class A:\n    def __call__(self, x, device="cuda"):\n        pass\nA()(1, device)'),
    _left("which card, where there is one", "if torch.cuda.is_available():\n    torch.cuda.set_device(local_rank)"),
    _says(
        "where there is CUDA, asked above",
        "use_cuda = torch.cuda.is_available()\nif use_cuda:\n    x.cuda()",
        5,
        NAMED,
    ),
    _left("left on other devices", 'def f(x, device):\n    if device.type != "cuda": return x\n    return x.cuda()'),
    _left("left on others, or early", 'for x in y:\n    if x.done or "cuda" != d: continue\n    x.cuda()'),
    _left(
        "left on others, told", 'def f(x, d):\n    if "cuda" not in d:\n        log()\n        return x\n    x.cuda()'
    ),
    _left("CUDA, by its letters", 'if "cuda" in str(d) or str(d).startswith("cuda"):\n    x.cuda()'),
    _left("CUDA, and more", 'if device.type == "cuda" and big:\n    x.cuda()'),
    _says("CUDA, or not", 'if device.type == "cuda" or big:\n    x.cuda()', 4, NAMED),
    _says("other words", 'if mode == "all" or mode == "train":\n    x.cuda()', 4, NAMED),
    _says("a call's word", 'if found("cuda"):\n    x.cuda()', 4, NAMED),
    _says("left early", "def f(x):\n    if not x:\n        return x\n    return x.cuda()", 6, NAMED),
    _left("CUDA, asked above", 'on = device.type == "cuda"\nif on:\n    x.cuda()'),
    _left("in words, with others", 'd = torch.cuda.is_available() and "cuda" or has_npu() and "npu" or "cpu"'),
    _left("words of no device", 'print(names and "cuda" or args.name or "gpu")\nprint("on", "cuda")'),
    _says("a type of tensor", "x = torch.cuda.FloatTensor([1.0])", 3, NAMED),
    _left("an option with a default", 'p.add_argument("--device", default="cuda")'),
    _left("an option's default", 'class Options:\n    device: str = "cuda"'),
    _left("with others", 'd = "cuda" if torch.cuda.is_available() else "npu" if has_npu() else "cpu"'),
    _left(
        "as torch says", 'd = torch.accelerator.current_accelerator().type if hasattr(torch, "accelerator") else "cuda"'
    ),
    _left("with others, by an if", 'if has_npu():\n    device = "npu"\nelse:\n    device = "cuda"'),
    _left("with others, one after another", 'device = "cuda"\nif has_npu():\n    device = "npu"'),
    _left("a dtype", 'dtype = torch.float16 if device.type == "cuda" else torch.float32'),
    _left("a backend", 'backend = "nccl" if torch.cuda.is_available() else "gloo"'),
    _left("no device", 'title = "cuda"'),
    _left("tracked", 'import wandb\nwandb.config.setdefault("device", "cuda")'),
    _left("only CUDA comes there", 'if device.type == "cuda":\n    d = "cuda" if x else "cpu"'),
    _left("written", "print(f\"{'cuda' if torch.cuda.is_available() else 'cpu'}\")"),
]
ANSWERED = "a call that only CUDA answers"
CHOICES += [
    _says(f"torch.cuda.{call}", f"x = torch.cuda.{call}", 3, ANSWERED)
    for call in ("synchronize()", "ipc_collect()", "reset_peak_memory_stats()", "get_rng_state_all()", "Stream()")
]
CHOICES += [
    _says("a context of CUDA's", "with torch.cuda.device(accelerator.device): pass", 3, ANSWERED),
    _says("a process group", 'dist.init_process_group("nccl")', 3, ANSWERED),
    _says("a process group, by its word", 'init_process_group(backend="nccl", rank=rank)', 3, ANSWERED),
    _left("a process group of what there is", 'init_process_group("nccl" if torch.cuda.is_available() else "gloo")'),
    _left("another process group", 'init_process_group("hccl")'),
    _left("what counts nothing elsewhere", "print(torch.cuda.max_memory_allocated(), torch.cuda.device_count())"),
    _left("answered where there is CUDA", "if torch.cuda.is_available():\n    torch.cuda.synchronize()"),
    _left("answered where there is CUDA, by a name", "on = torch.cuda.is_available()\nif on: torch.cuda.synchronize()"),
    _left("asked beside it", "s = torch.cuda.get_rng_state() if torch.cuda.is_available() else None"),
    _left("ends elsewhere", "if not torch.cuda.is_available():\n    raise E\nprint(torch.cuda.get_device_name())"),
    _left("answered on CUDA", 'if device.type == "cuda": torch.cuda.synchronize()'),
]

SCALER = "torch.cuda.amp.GradScaler"
SCALERS = [
    _scaler("inherited from", f"class Mine({SCALER}):\n    pass"),
    _scaler("chosen", f"made = {SCALER} if fp16 else None"),
    _scaler("handed on", f"make = partial({SCALER}, init_scale=2.0)"),
    _scaler("in a table", f'made = {{"fp16": {SCALER}}}'),
    _scaler("by its name", 'made = getattr(torch.cuda.amp, "GradScaler")()'),
    _scaler("on for CUDA alone", 'made = torch.amp.GradScaler(kind, enabled=kind == "cuda")', "for CUDA alone"),
    _scaler("said", f"def f(scaler: {SCALER} | None = None) -> {SCALER}:\n    return scaler", ""),
    _scaler("asked", f"known = isinstance(scaler, {SCALER})", ""),
    _scaler("any", "made = torch.amp.GradScaler if fp16 else None", ""),
    _scaler("only CUDA comes there", f'if kind == "cuda":\n    made = partial({SCALER})', ""),
]


TRAINER = """\
from accelerate import Accelerator
class Trainer:
    def __init__(self, net{more}):
        {made}
    def load(self, net):
        self.net = net.to("cuda")
    def connect(self):
        self.accelerator = Accelerator()
"""


def _trainer(id: str, reason: str, made: str, more: str = "") -> object:
    return refused(id, "device-placement", 7, reason, TRAINER.format(made=made, more=more))


EARLY = "line 4 calls that, or hands it on, before `self.accelerator` is bound: hand it in"
HELD = [
    *(
        _trainer(f"{how} before the Accelerator is made", EARLY, f"{made}\n        self.connect()", "=1")
        for how, made in (
            ("called", "self.load(net)"),
            ("handed on", "load = self.load"),
            ("handed to a thread", "threading.Thread(target=self.load, args=(net,)).start()"),
            ("called in a lambda", "start = lambda: self.load(net)"),
        )
    ),
    refused(
        "called before, in a function inside",
        "device-placement",
        8,
        EARLY.replace("4", "5"),
        TRAINER.format(more="", made="def start(): self.load(net)\n        start()\n        self.connect()"),
    ),
    refused(
        "called before, by way of another",
        "device-placement",
        7,
        EARLY,
        TRAINER.format(more="", made="self.both(net)\n        self.accelerator = Accelerator()")
        + "    def both(self, net):\n        self.load(net)\n",
    ),
    refused(
        "handed in, or not",
        "device-placement",
        5,
        "may be None",
        "from accelerate import Accelerator\nclass Trainer:\n    def __init__(self, net, accelerator=None):\n"
        '        self.accelerator = accelerator\n        self.net = net.to("cuda")\n',
    ),
    refused(
        "none in the class",
        "device-placement",
        7,
        "there: hand it in",
        "from accelerate import Accelerator\nclass Trainer:\n    accelerator = None\n    def run(self):\n"
        '        self.accelerator = Accelerator()\n    def load(self, net):\n        return net.to("cuda")\n',
    ),
    mended(
        "called once it is made",
        "device-placement",
        TRAINER.format(more="", made="self.connect()\n        self.load(net)"),
        "self.net = net.to(self.accelerator.device)",
    ),
    looks(
        "only where there is CUDA",
        "device-placement",
        3,
        NAMED,
        "import torch\nfrom accelerate import Accelerator\n"
        "net = net.cuda() if torch.cuda.is_available() else net\naccelerator = Accelerator()\n",
    ),
    looks(
        "a choice beside it",
        "device-placement",
        3,
        CHOSEN,
        "from accelerate import Accelerator\naccelerator = Accelerator()\n"
        'sample(net.to("cuda"), device="cuda" if args.gpu else "cpu")\n',
    ),
]


def _pinned(id: str, line: str) -> object:
    what = "memory pinned whether or not there is an accelerator"
    return looks(id, "pin-memory-guard", 2, what, f"import torch\n{line}\n")


PINNED = [
    _pinned("made so", "x = torch.empty(3, pin_memory=True)"),
    _pinned("for CUDA", 'x = y.pin_memory("cuda")'),
    _pinned("a method handed on", "x = list(map(torch.Tensor.pin_memory, y))"),
    left(
        "handed on where there is CUDA",
        "pin-memory-guard",
        "import torch\nif torch.cuda.is_available():\n    x = list(map(torch.Tensor.pin_memory, y))\n",
    ),
    left(
        "a choice",
        "pin-memory-guard",
        "import torch\nx = torch.empty(3, pin_memory=True) if torch.cuda.is_available() else y\n",
    ),
    left("for a device that is given", "pin-memory-guard", "import torch\nx = y.pin_memory(device)\n"),
    left("a loader's", "pin-memory-guard", "import torch\nx = torch.utils.data.DataLoader(y, pin_memory=True)\n"),
    left("asked", "pin-memory-guard", "import torch\nx = torch.empty(3, pin_memory=torch.cuda.is_available())\n"),
    left("not pinned", "pin-memory-guard", "import torch\nx = torch.empty(3, pin_memory=False)\n"),
]


@pytest.mark.parametrize("given", [*CHOICES, *SCALERS, *HELD, *PINNED])
def test_a_situation(given: Given) -> None:
    check(given)
