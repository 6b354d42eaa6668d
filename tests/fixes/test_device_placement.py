"""device-placement: the device that accelerate chose, where a script names CUDA."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

from fixing import case, conflict, gone, run, satisfied, tables, unlike

NAME = "device-placement"
HEAD = "import torch\nfrom accelerate import Accelerator\naccelerator = Accelerator()\n"


def line(id: str, before: str, after: str, count: int = 1) -> object:
    return case(id, f"{HEAD}{before}\n", f"{HEAD}{after}\n", count)


APPLIED = [
    line(
        "autocast",
        'with torch.autocast("cuda"):\n    pipeline()',
        "with torch.autocast(accelerator.device.type):\n    pipeline()",
    ),
    line(
        "autocast among others",
        "with torch.no_grad(), torch.autocast('cuda', dtype=half):\n    pipeline()",
        "with torch.no_grad(), torch.autocast(accelerator.device.type, dtype=half):\n    pipeline()",
    ),
    line(
        "autocast by keyword",
        'with torch.amp.autocast(device_type="cuda", dtype=half) as context:\n    pipeline()',
        "with torch.amp.autocast(device_type=accelerator.device.type, dtype=half) as context:\n    pipeline()",
    ),
    line(
        "CUDA's autocast, chosen",
        "context = nullcontext() if final else torch.cuda.amp.autocast()",
        "context = nullcontext() if final else torch.autocast(accelerator.device.type)",
    ),
    line(
        "CUDA's autocast, by keyword",
        "with torch.cuda.amp.autocast(dtype=half):\n    pipeline()",
        "with torch.autocast(accelerator.device.type, dtype=half):\n    pipeline()",
    ),
    line(
        "CUDA's autocast, by place",
        "with torch.cuda.amp.autocast(True, half, cache_enabled=False):\n    pipeline()",
        "with torch.autocast(accelerator.device.type, enabled=True, dtype=half, cache_enabled=False):\n    pipeline()",
    ),
    line("a module", 'unet = unet.to( "cuda" )  # now', "unet = unet.to( accelerator.device )  # now"),
    line(
        "its first card, and a dtype",
        'ema.to(device="cuda:0", dtype=half)',
        "ema.to(device=accelerator.device, dtype=half)",
    ),
    unlike(
        "what map_location is given",
        f'{HEAD}a = torch.load("a", map_location=lambda s, l: s.cuda())\nb = torch.load("b", lambda t, l: t.cuda())\n'
        "c = model.untyped_storage().cuda(non_blocking=True)\nd = [*map(lambda l: l.cuda(), labels)]\n",
        f'{HEAD}a = torch.load("a", map_location=lambda s, l: s.to(device=accelerator.device))\n'
        'b = torch.load("b", lambda t, l: t.to(device=accelerator.device))\n'
        "c = model.untyped_storage().to(device=accelerator.device, non_blocking=True)\n"
        "d = [*map(lambda l: l.to(accelerator.device), labels)]\n",
        4,
    ),
    line(
        "a kind by its name",
        'mesh = torch.distributed.init_device_mesh(device_type="cuda")\n@torch.amp.custom_fwd(device_type="cuda")\n'
        "def forward(ctx, x):\n    return x",
        "mesh = torch.distributed.init_device_mesh(device_type=accelerator.device.type)\n"
        "@torch.amp.custom_fwd(device_type=accelerator.device.type)\ndef forward(ctx, x):\n    return x",
        2,
    ),
    line(
        "compared beside it", "x = x.to('cuda') if f(x) == 1 else x", "x = x.to(accelerator.device) if f(x) == 1 else x"
    ),
    line("by method", "vae = make(1).cuda()", "vae = make(1).to(accelerator.device)"),
    line("by method, with blanks", "x = x.cuda( 0 )", "x = x.to( accelerator.device )"),
    line("and a flag", "x = x.cuda(non_blocking=True)", "x = x.to(accelerator.device, non_blocking=True)"),
    line(
        "a chain over lines",
        'y = (net(x.cuda())\n     .to("cuda")\n     .cuda(\n     0\n     ))',
        "y = (net(x.to(accelerator.device))\n     .to(accelerator.device)\n     .to(\n     accelerator.device\n     ))",
    ),
    line(
        "a device by the process's index",
        'device = torch.device("cuda", accelerator.local_process_index)\nx.to(torch.device("cuda", args.local_rank))',
        "device = torch.device(accelerator.device)\nx.to(torch.device(accelerator.device))",
        2,
    ),
    line("a checkpoint's", 'x = net.load(a, map_location="cuda")', "x = net.load(a, map_location=accelerator.device)"),
    line("by torch", 'x = torch.load(a, map_location="cuda")', "x = torch.load(a, map_location=accelerator.device)"),
    line("a device", 'device = torch.device("cuda")', "device = torch.device(accelerator.device)"),
    line(
        "a generator and a tensor",
        'run(torch.Generator("cuda"), torch.zeros(3, device="cuda"))',
        "run(torch.Generator(accelerator.device), torch.zeros(3, device=accelerator.device))",
    ),
    line(
        "several places",
        'a.cuda()\nif b.to("cuda"):\n    c.cuda()',
        "a.to(accelerator.device)\nif b.to(accelerator.device):\n    c.to(accelerator.device)",
        3,
    ),
    line(
        "a name, CUDA's or the CPU's",
        'd = "cuda" if torch.cuda.is_available() else "cpu"\nx.to("cuda" if torch.cuda.is_available() else "cpu")',
        "d = accelerator.device.type\nx.to(accelerator.device.type)",
        2,
    ),
    line(
        "a device, CUDA's or the CPU's",
        'd = torch.device("cuda") if torch.cuda.is_available() else torch.device("cpu")',
        "d = accelerator.device",
    ),
    case(
        "in a function called after the Accelerator is made",
        "import torch\nfrom accelerate import Accelerator\ndef main(x):\n    def encode(x):\n"
        '        return x.to("cuda")\n    accelerator = Accelerator()\n    encode(x)\n',
        "import torch\nfrom accelerate import Accelerator\ndef main(x):\n    def encode(x):\n"
        "        return x.to(accelerator.device)\n    accelerator = Accelerator()\n    encode(x)\n",
    ),
    case(
        "an Accelerator of another name",
        'from accelerate import Accelerator\nacc = Accelerator()\nwith one, torch.autocast("cuda"):\n    net.cuda()\n',
        "from accelerate import Accelerator\nacc = Accelerator()\n"
        "with one, torch.autocast(acc.device.type):\n    net.to(acc.device)\n",
        2,
    ),
    unlike(
        "a parameter of another name, by what calls it",
        "import torch\nfrom accelerate import Accelerator\ndef encode(x, acc):\n    return x.cuda()\n"
        "def main(x):\n    acc = Accelerator()\n    encode(x, acc=acc)\n    encode(x, acc)\n",
        "import torch\nfrom accelerate import Accelerator\ndef encode(x, acc):\n    return x.to(acc.device)\n"
        "def main(x):\n    acc = Accelerator()\n    encode(x, acc=acc)\n    encode(x, acc)\n",
    ),
    *(
        unlike(
            f"a class's, {how}",
            f"from accelerate import Accelerator\nclass A:\n{lines}    def encode(self, x):\n        return x.cuda()\n",
            f"from accelerate import Accelerator\nclass A:\n{lines}    def encode(self, x):\n"
            "        return x.to(self.accelerator.device)\n",
        )
        for how, lines in (
            ("made with it", "    accelerator = Accelerator()\n"),
            (
                "made when it is asked for",
                "    @cached_property\n    def accelerator(self):\n        return Accelerator()\n",
            ),
        )
    ),
    unlike(
        "a field of a data class",
        "from accelerate import Accelerator\n@dataclass\nclass Context:\n    accelerator: Accelerator\n"
        "    def encode(self, x):\n        return x.cuda()\n",
        "from accelerate import Accelerator\n@dataclass\nclass Context:\n    accelerator: Accelerator\n"
        "    def encode(self, x):\n        return x.to(self.accelerator.device)\n",
    ),
    line("by method, beside another", "x = x.cpu() + x.cuda()", "x = x.cpu() + x.to(accelerator.device)"),
    unlike(
        "below what is for CUDA alone",
        f"{HEAD}if accelerator.device.type == 'cuda':\n    x = x.cuda()\nx = x.cuda()\n",
        f"{HEAD}if accelerator.device.type == 'cuda':\n    x = x.cuda()\nx = x.to(accelerator.device)\n",
    ),
    unlike(
        "under another name, with another setting",
        "import torch as th\nfrom accelerate import Accelerator\naccelerator = Accelerator(split_batches=True)\n"
        "with th.cuda.amp.autocast():\n    pipeline()\n",
        "import torch as th\nfrom accelerate import Accelerator\naccelerator = Accelerator(split_batches=True)\n"
        "with th.autocast(accelerator.device.type):\n    pipeline()\n",
    ),
]
REFUSED = [
    conflict(
        "an Accelerator of another object",
        "`accelerator` is not bound there, but `ctx.accelerator` is: hand it in",
        3,
        'from accelerate import Accelerator\ndef f(ctx, model):\n    model.to("cuda")\n    ctx.accelerator.print(1)\n',
    ),
    conflict(
        "torch's own word for any",
        "`accelerator` is not bound there: hand it in",
        4,
        "import torch\nfrom accelerate import Accelerator\ndef f(model):\n"
        '    model.to("cuda")\n    torch.accelerator.synchronize()\n',
    ),
    conflict(
        "an Accelerator in a dictionary",
        "`accelerator` is not bound there, but `kept['accelerator']` is: hand it in",
        4,
        "from accelerate import Accelerator\ndef f(model):\n    kept = {}\n"
        '    model.to("cuda")\n    kept["accelerator"] = Accelerator()\n',
    ),
    conflict(
        "what is made by functions in a circle",
        "`accelerator` is not bound there",
        7,
        "import torch\nfrom accelerate import Accelerator\n"
        "def make(n):\n    return make(n - 1) if n else other(n)\ndef other(n): return make(n)\n"
        'a = make(3)\nmodel.to("cuda")\n',
    ),
    *(
        conflict(
            f"in a function {how}",
            f"`accelerator` {why} not be bound there" if why == "may" else "`accelerator` is not bound there",
            4,
            "import torch\nfrom accelerate import Accelerator\ndef main(x):\n"
            f"    def encode(): return x.to('cuda')\n    {before}\n    accelerator = Accelerator()\n    {after}\n",
        )
        for how, why, before, after in (
            ("called before the Accelerator", "is", "encode()", "return"),
            ("called before and after the Accelerator", "may", "encode()", "encode()"),
            ("handed on before the Accelerator", "may", "hook = encode\n    hook()", "return"),
            ("handed to a thread before the Accelerator", "may", "Thread(target=encode).start()", "return"),
            ("called in one called before the Accelerator", "is", "def load(): encode()\n    load()", "return"),
        )
    ),
    conflict(
        "a parameter that is called with something else, too",
        "`accelerator` is not bound there",
        3,
        "from accelerate import Accelerator\ndef encode(x, acc):\n    return x.cuda()\n"
        "def main(x):\n    acc = Accelerator()\n    encode(x, acc)\n    encode(x, 3)\n",
    ),
    conflict(
        "where an object is made before the Accelerator",
        "`accelerator` is not bound there",
        4,
        "from accelerate import Accelerator\nclass Encoder:\n    def __init__(self, net):\n"
        "        self.net = net.cuda()\nencoder = Encoder(net)\naccelerator = Accelerator()\n",
    ),
    satisfied("there", f"{HEAD}with torch.autocast(accelerator.device.type):\n    unet.to(accelerator.device)\n"),
    gone("asked for", f'{HEAD}half = accelerator.device.type == "cuda"\nseed(torch.cuda)\n'),
    gone("written", f"{HEAD}print(f\"{{'cuda' if torch.cuda.is_available() else 'cpu'}}\")\n"),
    gone(
        "for whoever runs it",
        f'{HEAD}p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")\n',
    ),
    gone("among others", f'{HEAD}d = "cuda" if torch.cuda.is_available() else "npu" if has_npu() else "cpu"\n'),
    gone(
        "where there is CUDA",
        f'{HEAD}if torch.cuda.is_available():\n    d = torch.device("cuda")\nelse:\n    d = "cpu"\n',
    ),
    gone("a flag that means another thing", f"{HEAD}x = x.cuda(memory_format=torch.channels_last)\n"),
    gone("a map for anybody's method", f'{HEAD}net.restore(a, map_location="cuda")\n'),
    gone("another's device", f"{HEAD}x = x.to(a.device)\n"),
    gone("in a text", f"{HEAD}card = 'pipe.to(\"cuda\")'\n"),
    gone("no accelerate", 'import torch\nunet.to("cuda")\n'),
    gone("a device by another index", f'{HEAD}device = torch.device("cuda", args.card)\n'),
    gone("a name for anybody's function", f'{HEAD}hub.load(a, device="cuda")\ntorch.hub.load(a, device="cuda")\n'),
    conflict("on the CPU", "with `cpu=True`", 4, f'{HEAD.replace("()", "(cpu=True)")}net.to("cuda")\n'),
    conflict("several cards", 'on the card "cuda:1"', 4, f'{HEAD}a.to("cuda:0")\nb.to("cuda:1")\n'),
    conflict("compared", "is compared", 4, f'{HEAD}same = str(torch.device("cuda")) == "cuda"\n'),
    conflict(
        "no accelerator there",
        "`accelerator` is not bound there",
        3,
        'from accelerate import Accelerator\ndef validate(pipeline):\n    pipeline.to("cuda")\n',
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


def _validate(text: str) -> str:
    """What comes of an image made under a script's autocast on an NPU."""
    active: list[str] = []

    class Autocast(nullcontext[None]):
        def __init__(self, kind: str) -> None:
            super().__init__()
            active.append(kind)  # of another device than its own it does nothing

    def pipeline() -> None:
        if active != ["npu"]:
            raise RuntimeError("mat1 and mat2 must have the same dtype")

    device = SimpleNamespace(type="npu")
    names = {"torch": SimpleNamespace(autocast=Autocast), "accelerator": SimpleNamespace(device=device)}
    try:
        run(text.removeprefix(HEAD), pipeline=pipeline, **names)
    except RuntimeError as error:
        return str(error)
    return "image"


def test_it_validates_on_the_device_and_without_the_fix_it_does_not() -> None:
    given = APPLIED[0].values[0]  # type: ignore[attr-defined]
    assert (_validate(given.before), _validate(given.after)) == ("mat1 and mat2 must have the same dtype", "image")
