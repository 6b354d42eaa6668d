"""`kit fix` on scripts of other shapes: prompts, validations, LoRAs, model cards and what is offloaded."""

from __future__ import annotations

import textwrap
from typing import Any

import pytest
from situations import Given, check, left, looks, refused


def _prompts(line: str) -> str:
    return (
        "def main(args, loader, prompts):\n    embeds, pooled = encode(args.prompt)\n    for batch in loader:\n"
        f"        {line}\n        accelerator.backward(loss(embeds))\n"
    )


def _grows(id: str, line: str, at: int = 4) -> Any:
    return looks(id, "prompt-repeat", at, "repeated from its own repetition", _prompts(line))


PROMPTS = [
    _grows("without captions", "embeds = embeds.repeat(len(batch), 1, 1)"),
    _grows("in the body", "if not args.own:\n            embeds = embeds.repeat(2, 1, 1)", 5),
    _grows(
        "in an elif", "if a:\n            embeds = batch\n        elif b:\n            embeds = embeds.repeat(2, 1)", 7
    ),
    _grows("a list", "embeds = embeds * len(batch)"),
    _grows("joined", "embeds = torch.cat([embeds] * len(batch), dim=0)"),
    _grows("by a function", "embeds = torch.repeat_interleave(embeds, 2, dim=0)"),
    _grows("a view of it", "embeds = embeds.expand(len(prompts), -1, -1)"),
    left("a view of one size", "prompt-repeat", _prompts("embeds = embeds.expand(args.batch, -1, -1)")),
    _grows("then moved", "embeds = embeds.repeat(2, 1, 1).to(accelerator.device)"),
    _grows("behind others", "step += 1; embeds = embeds.repeat(2, 1, 1)"),
    left("of the batch", "prompt-repeat", _prompts("embeds = batch.x\n        embeds = embeds.repeat(2, 1)")),
    left("of the loop", "prompt-repeat", _prompts("for embeds in batch:\n            embeds = embeds.repeat(2, 1)")),
    left(
        "a part of the batch",
        "prompt-repeat",
        _prompts('a = encode(batch)\n        a["x"], a.y = a["x"].repeat(2, 1), a.y.repeat(2, 1)'),
    ),
    left(
        "once, above",
        "prompt-repeat",
        _prompts("pass").replace("    for batch", "    prompts = prompts.repeat(2, 1, 1)\n    for batch"),
    ),
    left("scaled", "prompt-repeat", _prompts("embeds = embeds * 2")),
    left(
        "an attribute of the batch",
        "prompt-repeat",
        _prompts("self.x = batch.x\n        self.x = self.x.repeat(2, 1)"),
    ),
]


def _card(id: str, at: int, text: str) -> Any:
    return looks(id, "offline-model-card", at, "a model card asked for from the hub", text)


ASKED = "load_or_create_model_card(repo_id_or_path=name, from_training=True)"
CARDS = [
    _card(
        "in a method",
        5,
        f"""
        class Trainer:
            def save_model_card(self, name):
                {ASKED}.save(self.folder)
            def finish(self):
                self.save_model_card(self.folder)
        """,
    ),
    _card("by another name", 4, f"def write(name):\n    {ASKED}\ndef main(args):\n    write(args.folder)\n"),
    _card("right there", 2, f"def main(args, name):\n    card = {ASKED}\n    card.save(args.folder)\n"),
    left(
        "pushed",
        "offline-model-card",
        f"def write(name):\n    {ASKED}\ndef main(args):\n    if args.push_to_hub:\n        write(args.folder)\n",
    ),
]


CARDS += [
    looks(
        "handed on",
        "offline-model-card",
        4,
        "a model card asked for from the hub",
        f"def save_model_card(name):\n    {ASKED}\ndef main(args):\n    atexit.register(save_model_card, args.name)\n",
    )
]


OFFLOAD = "    with offload_models(vae, device=d, offload=args.offload):\n        p = p.to(vae.dtype)\n"


def _away(id: str, at: int, below: str, block: str = OFFLOAD) -> Any:
    text = f"import torch\ndef main(args, vae, p):\n{block}{below}"
    return looks(id, "offload-encode", at, "`vae` at work below the block", text)


def _there(id: str, below: str) -> Any:
    return left(id, "offload-encode", f"import torch\ndef main(args, vae, p):\n{OFFLOAD}{below}")


ENCODE = "    c = vae.encode(p)\n"
OFFLOADED = [
    _away("something between", 7, f"    log()\n{ENCODE}    vae.to(d)\n", f"    vae.to(d)\n{OFFLOAD}"),
    _away("in a block of its own", 6, f"    with torch.no_grad():\n    {ENCODE}"),
    _away("in a branch", 6, f"    if x:\n    {ENCODE}"),
    _away("in a loop", 6, f"    for p in x:\n    {ENCODE}"),
    _away("decoded", 5, "    c = vae.decode(p)\n"),
    _away("below the block around", 6, ENCODE, "    with a:\n" + textwrap.indent(OFFLOAD, "    ")),
    _away("beside other contexts", 5, ENCODE, OFFLOAD.replace("with ", "with torch.no_grad(), ")),
    _away("beside other models", 5, ENCODE, OFFLOAD.replace("(vae", "(vae, encoder")),
    _away("of a module", 5, ENCODE, OFFLOAD.replace("offload_models", "training_utils.offload_models")),
    _away("handed to a function that encodes", 5, "    c = encode_images(vae, p)\n"),
    _away("by its method", 5, "    encode = vae.encode\n"),
    _away("called itself", 5, "    c = vae(p).sample\n"),
    *(
        _away(
            f"in a context of the script's own, {how}",
            at,
            ENCODE,
            f"{made}{OFFLOAD.replace('offload_models', 'ondevice')}",
        )
        for how, at, made in (
            ("a function", 8, "    def ondevice(m, device, offload):\n        yield m\n        m.to('cpu')\n"),
            (
                "a class",
                9,
                "    class ondevice:\n        def __exit__(self, *a):\n            self.m.cpu()\n        x = 1\n",
            ),
        )
    ),
    left(
        "in a context that does something else",
        "offload-encode",
        "class away:\n    def __exit__(self, *a):\n        self.m.cpu()\nclass offloaded(away):\n"
        "    def __exit__(self, *a):\n        self.m.cpu()\n"
        "def frozen(m):\n    m.to('cpu')\n    m.cpu(); yield m\n    x = m.score.cpu()\n"
        f"def main(args, vae, p):\n    with frozen(vae):\n        pass\n{ENCODE}",
    ),
    _there("asked for its settings", "    c = p * vae.config.scaling_factor\n    save(vae)\n"),
    _there("moved again", f"    vae.to(d)\n{ENCODE}"),
    left(
        "in a context that does another thing at its end",
        "offload-encode",
        "def timed(model):\n    yield\n    clock.add(1)\ndef main(vae, p):\n    with timed(vae):\n        p = p.to(d)\n"
        f"    log()\n{ENCODE}",
    ),
    _there("another one", f"    vae = load()\n{ENCODE}"),
    _there("another one that encodes", "    vae = with_tiled_decode(vae)\n"),
    left(
        "in the head of the block, and above it",
        "offload-encode",
        "import torch\ndef main(vae, p):\n    a = vae.encode(p)\n"
        "    with offload_models(vae, device=d), cache(vae.encode(p)) as b:\n        log(a, b)\n",
    ),
    refused(
        "two on a line",
        "offload-encode",
        4,
        "several statements share line 6",
        f"import torch\ndef main(args, vae, p):\n    x = 1\n{OFFLOAD}    c = vae.encode(p); d = vae.encode(c)\n",
    ),
    _there("in another such block", f"    x = 1\n{OFFLOAD}    {ENCODE}"),
    _there("made to be called", "    encode = lambda p: vae.encode(p)\n"),
]


def _pops(id: str, at: int, text: str) -> Any:
    registers = "def main(accelerator):\n    accelerator.register_save_state_pre_hook(hook)\n"
    return looks(id, "weights-pop", at, "weights popped from a list that may be empty", text + registers)


HOOK = "def hook(models, weights, folder):\n"
WEIGHTS = [
    _pops(
        "in a function inside", 3, f"{HOOK}    def save(model):\n        weights.pop()\n    list(map(save, models))\n"
    ),
    _pops("in a function that is handed them", 2, f"def drop(kept):\n    kept.pop()\n{HOOK}    drop(weights)\n"),
    _pops(
        "in a method that is handed them",
        3,
        "class Run:\n    def drop(self, at, kept):\n        kept.pop()\n"
        "    def hook(self, models, weights, folder):\n        self.drop(1, weights)\n",
    ),
    left("another list", "weights-pop", f"def drop(xs, kept):\n    xs.pop()\n{HOOK}    drop(xs, weights)\n"),
    left("asked there", "weights-pop", f"def drop(kept):\n    if kept:\n        kept.pop()\n{HOOK}    drop(weights)\n"),
]


def _seed(id: str, line: str) -> Any:
    text = f"def main(args):\n    {line}\n"
    return looks(id, "validation-seed", 2, "a seed of 0 counts as none: ask `args.seed is not None`", text)


def _not_a_seed(id: str, line: str) -> Any:
    return left(id, "validation-seed", f"def main(args):\n    {line}\n")


ONE = "torch.Generator().manual_seed(args.seed)"
SEEDS = [
    _seed("several generators", "g = [torch.Generator().manual_seed(args.seed + i) for i in n] if args.seed else None"),
    _seed("numpy's", "g = np.random.RandomState(args.seed) if args.seed else None"),
    _seed("a number made of it", "g = torch.Generator().manual_seed(int(args.seed)) if args.seed else None"),
    _seed("the other way round", f"g = None if not args.seed else {ONE}"),
    _seed("with another question", f"g = {ONE} if args.seed and args.fixed else None"),
    _seed("said to be asked", f"g = {ONE} if bool(args.seed) else None"),
    _seed("or another generator", f"g = {ONE} if args.seed else torch.Generator()"),
    _seed("or another seed", "set_seed(args.seed or -1)"),
    _seed("or a random one", "seed = args.seed or random.randint(0, 9)"),
    _seed("a number made of it first", "seed = int(args.seed) if args.seed else None"),
    _seed("left without one", "if not args.seed:\n        log()\n        return"),
    _seed("set everywhere", "if args.seed: seed_everything(args.seed, workers=True)"),
    _seed("set by name", "if args.seed: set_seed(seed=args.seed)"),
    _not_a_seed("nothing of the seed's", "return make(1) if args.seed else None"),
    _not_a_seed("told where there is none", "if not args.seed: log(args)"),
    _not_a_seed("0 otherwise", "seed = int(args.seed) if args.seed else 0"),
    _not_a_seed("a folder's name", "out = f'{args.out}/{args.seed}' if args.seed else args.out"),
    _not_a_seed("or 0, kept", "seed = args.seed or 0"),
    _not_a_seed("another option", "steps = args.steps or 42"),
    _not_a_seed("or 0", "set_seed(args.seed or 0)"),
    _not_a_seed("asked for", f"g = {ONE} if args.seed is not None and args.fixed else None"),
    _not_a_seed("asked for another thing", f"g = {ONE} if args.fixed else None"),
]


CAST = "    pipe.to(accelerator.device, dtype=weight_dtype)\n    with accelerator.autocast():\n        pipe()\n"
LOOP = "def main(pipe, args):\n    for batch in loader:\n        accelerator.backward(loss)\n"
TRAINING = LOOP + textwrap.indent(CAST, "    ")


def _cast(id: str, at: int, text: str) -> Any:
    return looks(id, "validation-cast", at, "a pipeline of what trains, cast in place", text)


TRAINS = "def main(loss):\n    accelerator.backward(loss)\n"
CASTS = [
    _cast("in the midst of training", 4, TRAINING),
    _cast("in a validation of another name", 2, f"def sample_images(pipe):\n{CAST}"),
    *(
        _cast(
            f"in a form that is not known: {how}",
            2,
            f"def {name}(pipe, unet):\n    {line}\n    with autocast('npu'): pipe()\n",
        )
        for how, name, line in (
            ("an object's", "log_validation", "self.pipeline.to(device, dtype=self.dtype)"),
            ("one after the other", "log_validation", "pipe = pipe.to(device).to(weight_dtype)"),
            ("the model alone", "log_validation", "pipe.unet.to(dtype=torch.float16)"),
            ("the model alone, halved", "validate", "pipe.transformer.half()"),
            ("unwrapped", "validate", "pipe = P.from_pretrained(a.b, unet=accelerator.unwrap_model(unet).to(dtype))"),
            ("where it is made", "log_validation", "pipe = P.from_pretrained(a.b, unet=unet).to(device, dtype)"),
        )
    ),
    *(
        left(how, "validation-cast", f"def log_validation(pipe):\n    {line}\n    with autocast('npu'): pipe()\n")
        for how, line in (
            ("its VAE alone", "pipe.vae.to(torch.float16)"),
            ("made whole", "pipe.unet.to(torch.float32)"),
            ("made of files", "pipe = P.from_pretrained(args.model, torch_dtype=dtype).to(device, dtype)"),
            ("its VAE, unwrapped", "pipe = P.from_pretrained(a.b, vae=accelerator.unwrap_model(vae, False).to(dtype))"),
            ("placed", "self.pipeline.to(device).enable_xformers()"),
            ("cast at the end", "if is_final: pipe.to(device, dtype=dtype)"),
        )
    ),
    *(
        refused(f"a generator: {how}", "validation-cast", line, "also called without autocast", text)
        for how, line, text in (
            (
                "inside",
                2,
                """
                def log_validation(pipeline, accelerator, torch_dtype):
                    pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)
                    def images():
                        yield pipeline()
                    with torch.autocast("npu"):
                        made = images()
                    return list(made)
                """,
            ),
            (
                "that is handed it",
                4,
                """
                def images(pipe):
                    yield pipe()
                def log_validation(pipeline, accelerator, torch_dtype):
                    pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)
                    with torch.autocast("npu"):
                        made = images(pipeline)
                    return list(made)
                """,
            ),
        )
    ),
    refused(
        "two of them, each off at a time of its own",
        "validation-cast",
        2,
        "autocast is off where `last` or `alone`",
        """
        def log_validation(pipeline, accelerator, torch_dtype, last=False, alone=False):
            pipeline = pipeline.to(accelerator.device, dtype=torch_dtype)
            first = torch.autocast("npu") if not last else nullcontext()
            second = torch.autocast("npu") if not alone else nullcontext()
            with first:
                pipeline()
            with second:
                pipeline()
        """,
    ),
    looks(
        "a second pipeline of what trains",
        "validation-cast",
        3,
        "cast in place",
        "def log_validation(unet):\n    second = Pipe.from_pretrained(args.model, unet=unet)\n"
        "    second.to(device, torch.float16)\n    with torch.autocast('npu'):\n        second()\n",
    ),
    looks("by another name", "validation-cast", 2, "cast in place", f"def inference(pipe):\n{CAST}{TRAINS}"),
    left(
        "what is made with it",
        "validation-cast",
        "def validate(unet):\n    x = encode(1, unet=unet)\n    x = x.to(device, torch.float16)\n"
        "    with torch.autocast('npu'):\n        unet(x)\n",
    ),
    left("where nothing trains", "validation-cast", f"def inference(pipe):\n{CAST}"),
    looks(
        "the model itself",
        "validation-cast",
        3,
        "cast in place",
        "def log_validation(unet, pipe):\n    unet = accelerator.unwrap_model(unet)\n    unet.to(torch.float16)\n"
        "    with torch.autocast('npu'):\n        pipe()\n",
    ),
    left("after training", "validation-cast", f"def main(pipe, args):\n    accelerator.backward(loss)\n{CAST}"),
    left("loaded there", "validation-cast", f"def sample(args):\n    pipe = Pipe.from_pretrained(args.model)\n{CAST}"),
]


@pytest.mark.parametrize("given", [*CASTS, *PROMPTS, *CARDS, *OFFLOADED, *WEIGHTS, *SEEDS])
def test_a_situation(given: Given) -> None:
    check(given)
