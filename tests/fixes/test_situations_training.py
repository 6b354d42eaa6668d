"""`kit fix` on scripts of other shapes: seeds, orders of batches, hooks that load, caches, step limits."""

from __future__ import annotations

from typing import Any

import pytest
from situations import HEAD, Given, check, left, looks, refused

FIX = "rank-noise"
DRAW = "accelerator.backward(model(batch, torch.randn(4)))"


def script(seed: str, draw: str = DRAW, top: str = "") -> str:
    return (
        f"{HEAD}{top}def main(args, accelerator, model, loader):\n    {seed}\n"
        f"    model, loader = accelerator.prepare(model, loader)\n    for batch in loader:\n        {draw}\n"
    )


def said(id: str, line: int, seed: str, top: str = "") -> Any:
    return looks(id, FIX, line, "the same noise on all processes", script(seed, top=top))


OWN = "def seed_all(seed):\n    random.seed(seed)\n    torch.manual_seed(seed)\n"
OTHERS = "from transformers import set_seed\n"
METHODS = f"""{HEAD}from accelerate.utils import set_seed
class Trainer:
    def __init__(self, args):
        self.accelerator = Accelerator()
        set_seed(args.seed)
        self.model, self.loader = self.accelerator.prepare(args.model, args.loader)
    def train(self):
        for batch in self.loader:
            self.accelerator.backward(self.model(batch, torch.randn_like(batch)))
"""
STEPS = METHODS.replace(
    "            self.accelerator.backward(self.model(batch, torch.randn_like(batch)))\n",
    "            self.step(batch)\n    def step(self, batch):\n        self.accelerator.backward(self.loss(batch))\n"
    "    def loss(self, batch):\n        return self.model(batch, torch.randn_like(batch))\n",
)
SHOWN = STEPS.replace("def loss", "def log_validation").replace("self.loss(", "self.log_validation(")
SEEDS = [
    looks("drawn in a method of a method", FIX, 9, "the same noise", STEPS),
    left("drawn for pictures alone", FIX, SHOWN),
    said("torch's own", 6, "torch.manual_seed(args.seed)"),
    said("a function of the script", 7, "seed_all(args.seed)", OWN),
    said("another's set_seed", 7, "set_seed(args.seed)\n    torch.manual_seed(0)", OTHERS),
    said("by another name", 7, "fix_seed(args.seed)", "from accelerate.utils import set_seed as fix_seed\n"),
    said("lightning's", 6, "pl.seed_everything(cfg.seed)"),
    looks("seeded and trained in methods", FIX, 9, "the same noise", METHODS),
    left("each process by its number", FIX, script("torch.manual_seed(args.seed + accelerator.process_index)")),
    left("a generator of its own", FIX, script("g = torch.Generator().manual_seed(0); valid_g.manual_seed(1)")),
    left(
        "drawn above alone",
        FIX,
        script("torch.manual_seed(0); w = torch.randn(4)", "accelerator.backward(model(batch))"),
    ),
    left("without accelerate", FIX, script("torch.manual_seed(0)").replace(".prepare", ".setup")),
    left(
        "numpy's noise", FIX, script("torch.manual_seed(0)", "accelerator.backward(model(batch, np.random.randn(4)))")
    ),
    left("for pictures", FIX, script("pass", top="def validate(seed):\n    torch.manual_seed(seed)\n")),
    left("for each batch", FIX, script("pass", f"torch.manual_seed(0); {DRAW}")),
]

BATCHES = "batches that each process shuffles for itself"
CLASS = "import random\nimport numpy as np\nfrom accelerate import Accelerator\nclass Mine({base}):\n"
ORDER = "    def __iter__(self):\n        {draw}\n        return iter(self.batches)\n"
MORE = "    def again(self):\n        random.shuffle(self.batches)\n"
LOADER = "loader = DataLoader(data, batch_sampler=Mine(data))\n"
SHUFFLED = "random.shuffle(self.batches)"


def sampler(draw: str = SHUFFLED, base: str = "BatchSampler", more: str = "") -> str:
    return CLASS.format(base=base) + ORDER.format(draw=draw) + more


SAMPLERS = [
    *(
        looks(f"{draw}, {base}{bool(more)}", "batch-order", line, BATCHES, sampler(draw, base, more))
        for draw, base, more, line in (
            (SHUFFLED, "BatchSampler", "", 6),
            (SHUFFLED, "Sampler[int]", "", 6),
            (SHUFFLED, "object", LOADER, 6),
            ("order = random.sample(self.batches, 9)", "Sampler", "", 6),
            ("self.batches.sort(key=lambda each: random.random())", "Sampler", "", 6),
            ("np.random.shuffle(self.batches)", "Sampler", "", 6),
            ("self.again()", "Sampler", MORE, 9),
        )
    ),
    left("by its own generator", "batch-order", sampler("random.Random(self.epoch).shuffle(self.batches)")),
    left("a share for each process", "batch-order", sampler(f"{SHUFFLED}; self.rank")),
    left("no sampler", "batch-order", sampler(base="object")),
    left("as it is made", "batch-order", sampler("pass") + MORE.replace("again", "__init__")),
    left("without accelerate", "batch-order", sampler().replace("accelerate", "lightning")),
]

HOOKED = f"{HEAD}def main(accelerator):\n    def load_model_hook(models, folder):\n"
NEEDS = "a load hook that needs a model"
HOOKS = [
    looks("the last one", "deepspeed-resume", 7, NEEDS, f"{HOOKED}        models.pop().load_attn_procs(folder)\n"),
    looks("the first one", "deepspeed-resume", 7, NEEDS, f"{HOOKED}        models[0].load_attn_procs(folder)\n"),
    looks(
        "a LoRA of a file",
        "deepspeed-resume",
        10,
        NEEDS,
        f"{HOOKED}        one = None\n        while models:\n            one = models.pop()\n"
        "        set_peft_model_state_dict(one, load_file(folder))\n",
    ),
    left(
        "each that is there",
        "deepspeed-resume",
        f"{HOOKED}        for _ in range(len(models)):\n            models.pop().load_attn_procs(folder)\n",
    ),
    left(
        "by what it found of them",
        "deepspeed-resume",
        f"{HOOKED}        some = models[:1]\n        for _ in some:\n            models.pop().load(folder)\n",
    ),
    left(
        "it asks for DeepSpeed",
        "deepspeed-resume",
        f"{HOOKED}        if is_deepspeed:\n            return\n        models.pop().load_attn_procs(folder)\n",
    ),
    left(
        "it leaves without one",
        "deepspeed-resume",
        f"{HOOKED}        if not models:\n            return\n        models.pop().load_attn_procs(folder)\n",
    ),
]

EMPTY = "torch.cuda.empty_cache"
CACHES = [
    *(
        looks(line, "accelerator-cache", 5, "a cache emptied for CUDA alone", f"{HEAD}{line}\n")
        for line in (
            f"free = {EMPTY}",
            f"free = lambda: {EMPTY}()",
            f"freed = [{EMPTY}() for _ in range(2)]",
            f"flush and {EMPTY}()",
            f"{EMPTY}() if low else None",
            "from torch.cuda import empty_cache as free; done = free",
        )
    ),
    refused(
        "another line cannot be mended",
        "accelerator-cache",
        7,
        "keeps other accelerators out",
        f"{HEAD}{EMPTY}()\nif torch.cuda.is_available() and low:\n    {EMPTY}()\n",
    ),
    left("where CUDA is asked for", "accelerator-cache", f"{HEAD}if torch.cuda.is_available():\n    free = {EMPTY}\n"),
]

COUNTED = """
def main(args, loader, step, state):
    for {number} in {over}:
        {first}
        for batch in loader:
            {step} += 1
            if {step} >= args.max_train_steps:
                break
        {below}
"""


def counted(
    number: str = "epoch",
    over: str = "range(args.epochs)",
    first: str = "pass",
    below: str = "pass",
    step: str = "step",
) -> str:
    return COUNTED.format(above="pass", number=number, over=over, first=first, below=below, step=step)


PROPERTY = """\
class Trainer:
    @property
    def asks(self):
        return {asked}
    def train(self):
        for epoch in range(self.config.epochs):
            self.epoch = epoch
            for batch in self.loader:
                self.step += 1
                if {left}:
                    break
            if self.asks: save()
"""
LIMIT = "self.step >= self.config.max_train_steps"
LIMITS = [
    looks(
        "a limit that a property asks for",
        "stop-at-max-steps",
        6,
        "a loop over epochs that goes on after the limit",
        PROPERTY.format(asked=LIMIT, left="self.asks").replace("            if self.asks: save()\n", ""),
    ),
    refused(
        "the last epoch, by a property",
        "stop-at-max-steps",
        6,
        "where `self.epoch == self.config.epochs - 1` (line 4)",
        PROPERTY.format(asked="self.epoch == self.config.epochs - 1", left=LIMIT),
    ),
    *(
        left(f"it starts anew: {first}", "stop-at-max-steps", counted(first=first, step=step))
        for first, step in (
            ("reset(state)", "state.step"),
            ("setattr(args, 'max_train_steps', 9)", "step"),
            ("vars(args).update(max_train_steps=9)", "step"),
        )
    ),
    *(
        left(f"it leaves: {leaves}", "stop-at-max-steps", counted(below=f"if step >= args.max_train_steps: {leaves}"))
        for leaves in ("return", "raise SystemExit")
    ),
    *(
        looks(f"no epochs: {number}", "stop-at-max-steps", 2, "a loop over epochs", counted(number, over))
        for number, over in (("fold", "range(5)"), ("i", "range(args.num_runs)"))
    ),
    *(
        refused(
            f"the last epoch: {number} in {over}",
            "stop-at-max-steps",
            2,
            f"where `{asked}` (line",
            counted(number, over, below=f"if {asked}: save()"),
        )
        for number, over, asked in (
            ("epoch", "range(args.epochs, 0, -1)", "epoch == 1"),
            ("epoch", "reversed(range(args.epochs))", "epoch == 0"),
            ("epoch, is_last", "mark(range(args.epochs))", "is_last"),
        )
    ),
    refused(
        "the last epoch, by how far it is",
        "stop-at-max-steps",
        2,
        "where `(epoch + 1) / args.epochs` (line",
        counted(below="done = (epoch + 1) / args.epochs\n        if done == 1: save()"),
    ),
    looks(
        "asked by a match",
        "stop-at-max-steps",
        2,
        "a loop over epochs",
        """
        def main(args, loader, step):
            for epoch in range(args.epochs):
                for batch in loader:
                    step += 1
                    match step >= args.max_train_steps:
                        case True:
                            break
        """,
    ),
    looks(
        "the batches are a helper's",
        "stop-at-max-steps",
        8,
        "a loop over epochs",
        """
        def one(args, loader, step):
            for batch in loader:
                step += 1
                if step >= args.max_train_steps:
                    break
            return step
        def main(args, loader, step):
            for epoch in range(args.epochs):
                step = one(args, loader, step)
        """,
    ),
    left(
        "the batches are a helper's, the limit everybody's",
        "stop-at-max-steps",
        """
        def one(args, loader, step):
            for batch in loader:
                step += 1
                if step >= args.max_train_steps:
                    break
            return step
        def main(args, loader, step):
            for epoch in range(args.epochs):
                step = one(args, loader, step)
                if step >= args.max_train_steps:
                    break
        """,
    ),
    left(
        "a flag ends the epochs",
        "stop-at-max-steps",
        """
        def main(args, loader, step, done):
            for epoch in range(args.epochs):
                for batch in loader:
                    step += 1
                    if step >= args.max_train_steps:
                        done = True
                        break
                if done:
                    break
        """,
    ),
]


@pytest.mark.parametrize("given", [*LIMITS, *SEEDS, *SAMPLERS, *HOOKS, *CACHES])
def test_a_situation(given: Given) -> None:
    check(given)
