"""rank-noise: draw other noise on each process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fixing import case, conflict, gone, run, satisfied, tables, unlike

NAME = "rank-noise"

SCRIPT = """\
import torch
from accelerate.utils import ProjectConfiguration, set_seed


def main(args):
    accelerator = Accelerator()
    if args.seed is not None:
        set_seed(args.seed)
    samples = accelerator.prepare(samples)
    for example in samples:
        draw(example)
    unet = load()

    # Prepare everything.
    {prepare}
{new}
    # We need to recalculate.
    steps = 1
    accelerator.load_state(args.path)
    for epoch in range(9):
        for step, batch in enumerate({over}):
            accelerator.backward(loss(unet, batch))
"""
NEW = """
    # Other noise and timesteps on each process; the first one draws what it would draw alone.
    if args.seed is not None and accelerator.process_index > 0:
        torch.manual_seed(args.seed + accelerator.process_index)
"""
PREPARE = "unet, loader = accelerator.prepare(unet, loader)"
EITHER = (
    "if args.text:\n        unet, loader = accelerator.prepare(unet, loader)\n    else:\n        loader = f(loader)"
)


def script(prepare: str = PREPARE, new: str = "", over: str = "loader") -> str:
    return SCRIPT.format(prepare=prepare, new=new, over=over)


def before_and_after(id: str, prepare: str = PREPARE, over: str = "loader") -> object:
    return case(id, script(prepare, over=over), script(prepare, NEW, over))


MADE = "    head = Linear()\n"

APPLIED = [
    before_and_after("below what prepares the loader"),
    before_and_after("below both ways to do so", EITHER),
    before_and_after("with a progress bar", over="tqdm(loader)"),
    *(
        case(
            f"{id}, drawn with the usual one",
            before.replace("unet, batch)", drawn),
            after.replace("unet, batch)", drawn),
        )
        for id, drawn in (
            ("noise", "unet, batch, torch.randn(4, generator=None))"),
            ("a picture", "unet, batch, pipeline(generator=g))"),
            ("captions dropped", "unet, torch.rand(1, generator=g), torch.randn_like(batch))"),
        )
        for before, after in [(script(), script(new=NEW))]
    ),
    before_and_after("a loader that shards itself", "unet, optimizer = accelerator.prepare(unet, optimizer)"),
    case(
        "something stands below the loop",
        f"{script()}    for each in unet:\n        each.save()\n    def end():\n        pass\n    end()\n",
        f"{script(new=NEW)}    for each in unet:\n        each.save()\n    def end():\n        pass\n    end()\n",
    ),
    case(
        "another name, no test around it",
        "import torch\nfrom accelerate import set_seed\ndef f(options, runner):\n    set_seed(options.seed)\n"
        "    data = runner.prepare(data)\n    for x in data:\n        runner.backward(x)\n",
        "import torch\nfrom accelerate import set_seed\ndef f(options, runner):\n    set_seed(options.seed)\n"
        "    data = runner.prepare(data)\n"
        "    # Other noise and timesteps on each process; the first one draws what it would draw alone.\n"
        "    if options.seed is not None and runner.process_index > 0:\n"
        "        torch.manual_seed(options.seed + runner.process_index)\n"
        "    for x in data:\n        runner.backward(x)\n",
    ),
    before_and_after("a model made where it is prepared", PREPARE.replace("(unet", "(get_peft_model(unet)")),
    case(
        "below one line more, others imported, more made below the loop",
        "from accelerate import a, z\n" + script().replace("load()\n", "load()\n    more = Linear()\n") + MADE,
        "from accelerate import a, z\n" + script(new=NEW).replace("load()\n", "load()\n    more = Linear()\n") + MADE,
    ),
    unlike(
        "a checkpoint is loaded on the next line",
        script().replace("    steps = 1\n", ""),
        script(new=NEW).replace("    steps = 1\n", ""),
    ),
    unlike(
        "the seed is set with more than it",
        script().replace("set_seed(args.seed)", "set_seed(args.seed, False)"),
        script(new=NEW).replace("set_seed(args.seed)", "set_seed(args.seed, False)"),
    ),
]

REFUSED = [
    satisfied("there", script(new=NEW)),
    satisfied("apart at once", script().replace("set_seed(args.seed)", "set_seed(args.seed, device_specific=True)")),
    satisfied("by hand", script().replace("set_seed(args.seed)", "set_seed(args.seed + accelerator.process_index)")),
    gone("no seed", script().replace("set_seed(args.seed)", "pass")),
    gone("another's set_seed", script().replace("accelerate.utils", "transformers")),
    gone("no training", script().replace("accelerator.backward", "accelerator.print")),
    gone("nothing prepared", script().replace("accelerator.prepare", "accelerator.unwrap")),
    conflict(
        "prepared where it cannot be seen",
        "does not prepare what it trains with among the function's own statements",
        8,
        script("unet, loader = prepare_all(accelerator, unet, loader)"),
    ),
    conflict(
        "a split below",
        "`random_split` (line 18) must come out alike",
        15,
        script().replace("    steps = 1\n", "    a, b = random_split(data, parts)\n"),
    ),
    conflict(
        "an adapter below",
        "`add_adapter` (line 18) must come out alike",
        15,
        script().replace("    steps = 1\n", "    unet.add_adapter(config)\n"),
    ),
    conflict(
        "all are joined by chance",
        "`gather` is reached by chance (line 23)",
        15,
        script() + "            if torch.rand(1).item() < 0.1:\n                print(accelerator.gather(x))\n",
    ),
    conflict("no torch", "`torch` is not bound", 15, script().replace("import torch\n", "import os\n")),
    gone(
        "another's set_seed, and others of accelerate's",
        "from accelerate import a, z\n" + script().replace("accelerate.utils", "transformers"),
    ),
    conflict(
        "two on a line",
        "in a way that this fix cannot edit",
        15,
        script().replace("    steps = 1\n", "    steps = 1; a = 2\n"),
    ),
]
BACKWARD = "accelerator.backward(loss(unet, batch))"


def chance(above: str, head: str, body: str = "accelerator.backward(batch)", called: str = "backward") -> object:
    """A row in which what all processes must do is reached by chance."""
    text = script().replace(
        f"            {BACKWARD}", f"            {above}\n            {head}\n                {body}"
    )
    return conflict(f"by chance: {head}", f"`{called}` is reached by chance (line 23)", 15, text)


REFUSED += [
    chance("k = int(torch.randint(1, 4, (1,)))", "for _ in range(k):"),
    chance("drop = torch.rand(()) < 0.1", "if drop:", f"continue\n            {BACKWARD}", "continue"),
    chance("which = torch.randint(0, 2, ()).item()", "if which:"),
    chance("def pick(): return torch.rand(1).item() < 0.1", "if pick():"),
    chance("again = torch.rand(1) < 0.5", "if again:", f"x = unet(batch)\n            {BACKWARD}", "unet"),
    *(
        conflict(f"together: {sign}", "several processes may share a sample", 15, text)
        for sign, text in (
            (sign, script().replace("Accelerator()", f"Accelerator({sign})"))
            for sign in ("tp_size=2", "x=ParallelismConfig()", "x=init_device_mesh('cuda')", "x=dist.new_group([0])")
        )
    ),
    conflict(
        "drawn once for all",
        "`randn` (line 18) must come out alike",
        15,
        script().replace("    steps = 1\n", "    table = nn.Parameter(torch.randn(4))\n"),
    ),
    conflict(
        "a checkpoint above",
        "a checkpoint is loaded above it",
        15,
        script().replace("    unet = load()\n", "    accelerator.load_state(x) if x else None\n"),
    ),
    conflict(
        "noise of a generator's own",
        "`g` draws the noise that it trains with",
        15,
        script().replace("loss(unet, batch)", "loss(unet, batch, torch.randn(batch.shape, generator=g))"),
    ),
    satisfied(
        "noise of a generator that is seeded by the process",
        script()
        .replace("    steps = 1\n", "    g = torch.Generator().manual_seed(args.seed + accelerator.process_index)\n")
        .replace("loss(unet, batch)", "loss(unet, batch, torch.randn(batch.shape, generator=g))"),
    ),
    satisfied(
        "seeded below",
        script().replace("    steps = 1\n", "    torch.manual_seed(args.seed + accelerator.process_index)\n"),
    ),
]
SEED = "set_seed(args.seed)"
APPLIED += [
    unlike(
        f"the seed is {seed}",
        script().replace(SEED, f"set_seed({seed})"),
        script(new=NEW.replace("args.seed is not None and ", test).replace("args.seed", seed)).replace(
            SEED, f"set_seed({seed})"
        ),
    )
    for seed, test in (
        ("42", ""),
        ("args['seed']", "args.seed is not None and "),
        ("args.get('seed')", "args.seed is not None and "),
    )
]
SAMPLER = """\
class Buckets(Sampler):
    def __iter__(self):
        return iter(torch.randperm(self.n{given}).tolist())
"""
STEP = (
    "def one(accelerator, batch):\n    if torch.rand(1).item() < 0.5:\n        accelerator.backward(batch)\n"
    "    return batch\n"
)
RELORA = "def again(unet):\n    for each in unet:\n        nn.init.kaiming_uniform_(each.weight)\n"


def anew(line: str, old: str = f"            {BACKWARD}\n") -> str:
    """The script with a line above another."""
    return script().replace(old, f"{' ' * (len(old) - len(old.lstrip()))}{line}\n{old}", 1)


EPOCH = "        for step, batch in"
REFUSED += [
    chance("u = torch.rand(1); p = u.item(); mode = 'a' if p < 0.5 else 'b'", "if mode == 'a':"),
    chance("t = torch.randint(0, 9, (1,)); n = int(t)", "for _ in range(4 if n > 5 else 1):"),
    chance(
        "t = torch.rand(4); mask = t < 0.5",
        "if mask.any():",
        f"accelerator.gather(b)\n            {BACKWARD}",
        "gather",
    ),
    chance("n = torch.multinomial(w, 1).item()", "for _ in range(n):"),
    conflict("an order of its own", "`Buckets` draws the order", 15 + 3, SAMPLER.format(given="") + script()),
    conflict(
        "each epoch's order", "`randperm` (line 21) must come out alike", 15, anew("o = torch.randperm(9)", EPOCH)
    ),
    conflict("weights anew", "`kaiming_uniform_` (line 22) must come out", 15, anew("kaiming_uniform_(unet.weight)")),
    conflict("weights anew in a helper", "`again` (line 25) must come out", 18, RELORA + anew("again(unet)")),
    conflict("a codebook anew", "`vq.code.data[dead]` (line 22) must", 15, anew("vq.code.data[dead] = torch.randn(4)")),
    conflict("seeded for pictures", "`manual_seed` (line 22) makes all draw alike", 15, anew("torch.manual_seed(0)")),
    conflict("by chance in a helper", "`backward` is reached by chance (line 2)", 15 + 4, STEP + script()),
    conflict(
        "the noise from a generator alone",
        "`g` draws the noise",
        15,
        script().replace("(unet, batch)", "(torch.randn(4, generator=g), torch.randint(0, 9, (4,)))"),
    ),
    conflict("seeded again", "`set_seed` (line 21) makes all draw alike again", 15, anew("set_seed(epoch)", EPOCH)),
    conflict(
        "numpy's noise",
        "`np.random.randn` draws the noise",
        15,
        script().replace("(unet,", "(unet, np.random.randn(4), np.random.randint(4),"),
    ),
    conflict("either seed", "`args.seed or 42` is worked out", 15, script().replace(SEED, "set_seed(args.seed or 42)")),
    conflict(
        "a seed worked out", "`int(args.seed)` is worked out", 15, script().replace(SEED, "set_seed(int(args.seed))")
    ),
    satisfied("apart at once, by place", script().replace(SEED, "set_seed(args.seed, APART)")),
    satisfied("by a name", script().replace(SEED, "seed = args.seed + accelerator.process_index; set_seed(seed)")),
]
OWN = "    g = torch.Generator().manual_seed(args.seed + accelerator.process_index)\n"
APPLIED += [
    case(
        "the noise alone from a generator of the process",
        *(
            t.replace("    unet = load()\n", OWN).replace(
                "(unet, batch)", "(torch.randn(4, generator=g), torch.rand(4))"
            )
            for t in (script(), script(new=NEW))
        ),
    ),
    unlike(
        "an order drawn alike", *(SAMPLER.format(given=", generator=g") + text for text in (script(), script(new=NEW)))
    ),
    unlike(
        "the seed by its name",
        *(t.replace(SEED, "set_seed(seed=args.seed)") for t in (script(), script(new=NEW))),
    ),
    unlike(
        "not apart",
        *(t.replace(SEED, "set_seed(args.seed, device_specific=False)") for t in (script(), script(new=NEW))),
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@pytest.mark.parametrize("seed", [None, 7])
def test_only_the_processes_above_the_first_are_seeded_anew(seed: int | None) -> None:
    for process, wanted in ((0, []), (1, [8]), (3, [10])):
        seeded: list[int] = []
        torch = SimpleNamespace(manual_seed=seeded.append)
        accelerator = SimpleNamespace(process_index=process)
        text = "def f(args, accelerator):\n    pass\n" + NEW
        run(text, torch=torch)["f"](SimpleNamespace(seed=seed), accelerator)
        assert seeded == (wanted if seed is not None else [])
