"""The judge of the benches, tested on fixes in the right place and in wrong ones."""

from __future__ import annotations

import judge
import pytest
from judge_accelerate import MINE, OWN, PAIR, UNSHARDED
from judge_changes import Change, changes, differs, other_text
from judge_words import DEEPSPEED, MAIN, is_python, lines, parse, undefined

from kit import codemod, fixes
from kit.fixes import Outcome

SCRIPT = """\
import logging
import os
from accelerate import Accelerator
from diffusers.utils import is_wandb_available


def save_model_card(name):
    load_or_create_model_card(name)


if is_wandb_available():
    import wandb


def main(args):
    accelerator = Accelerator()

    def save_model_hook(models, weights, output_dir):
        for model in models:
            weights.pop()

    global_step = 0
    for epoch in range(first_epoch, args.num_train_epochs):
        for step, batch in enumerate(loader):
            if accelerator.sync_gradients:
                if accelerator.is_main_process:
                    if args.checkpoints_total_limit is not None:
                        remove([d for d in os.listdir(args.output_dir) if d.startswith("checkpoint")])
                    save_path = os.path.join(args.output_dir, f"checkpoint-{global_step}")
                    accelerator.save_state(save_path)
            logs = {}
            if global_step >= args.max_train_steps:
                break

    save_model_card(name)
    if args.push_to_hub:
        upload_folder()
"""
OPEN = f"{MAIN} or {DEEPSPEED}"
PRINT = 'accelerator.print("")\n'
STOP = "if global_step >= args.max_train_steps:\n"
LIBRARY = ("fp16-guard", "grad-scaler", "oss-prepare")  # of accelerate: below
ALL = sorted(set(judge.LACKING) - set(LIBRARY))


@pytest.mark.parametrize("fix", ALL)
def test_a_fix_in_its_place(fix: str) -> None:
    """What the codemods make of a script; the rotation is a place only once the checkpoint is open to every rank."""
    before = SCRIPT.encode()
    if fix == "checkpoint-rotation":
        before = codemod.run(fixes.load("deepspeed-checkpoint"), before, "train.py").content
    assert len(judge.lacking(fix, before)) == 1
    done = codemod.run(fixes.load(fix), before, "train.py")
    assert done.outcome is Outcome.applied and judge.wrong(fix, before, done.content) == ""
    assert judge.lacking(fix, done.content) == []
    assert judge.wrong(fix, before, before) != ""
    made = changes(before, done.content)
    if fix not in ("stop-at-max-steps", "offline-model-card", "checkpoint-rotation"):  # there already, or only moved
        assert all(change.wanted_in(parse(before)) for change in made)
    assert not any(change.wanted_in(parse(done.content)) for change in made)
    assert differs(made, before, done.content) == ""
    assert differs(made, before, before).startswith("not done in ")


def put(after: str, text: str, script: str = SCRIPT) -> bytes:
    """The script with ``text`` below the line ``after``, which is there once."""
    assert script.count(f"{after}\n") == 1
    return script.replace(f"{after}\n", f"{after}\n{text}").encode()


MISPLACED = [
    ("progress-print", put("                break", " " * 8 + PRINT), "in the loop over epochs"),
    ("progress-print", put("            logs = {}", " " * 12 + PRINT), "above the break"),
    ("progress-print", put("                break", " " * 16 + PRINT), "below the break, never reached"),
    ("progress-print", put("            weights.pop()", " " * 12 + PRINT), "in the hook"),
    ("stop-at-max-steps", put("    global_step = 0", f"    {STOP}        pass\n"), "above the loop"),
    (
        "stop-at-max-steps",
        put("        for step, batch in enumerate(loader):", f"            {STOP}                break\n"),
        "in the loop over batches",
    ),
    (
        "weights-pop",
        SCRIPT.replace("        for model", "        if weights:\n          for model").encode(),
        "around all",
    ),
    ("weights-pop", SCRIPT.replace("weights.pop()", "if models: weights.pop()").encode(), "another guard"),
    (
        "checkpoint-rotation",
        SCRIPT.replace("if args.push", f"if {MAIN} and args.push").encode(),
        "another test",
    ),
    (
        "deepspeed-checkpoint",
        SCRIPT.replace("if accelerator.sync_gradients:", f"if {OPEN}:").encode(),
        "the wrong if",
    ),
    (
        "deepspeed-checkpoint",
        SCRIPT.replace(f"if {MAIN}:", f"if {OPEN}:").encode(),
        "DistributedType is not imported",
    ),
    ("offline-model-card", SCRIPT.replace("    save_model_card(name)\n", "").encode(), "lost"),
    (
        "offline-model-card",
        SCRIPT.replace("    save_model_card(name)\n", "")
        .replace("folder()", "folder()\n        save_model_card(name)")
        .encode(),
        "below the upload",
    ),
    (
        "transformer-patches",
        put("    import wandb", "\nfrom transformer_patches import apply_patches\napply_patches()\n"),
        "below the anchor",
    ),
]


@pytest.mark.parametrize(("fix", "after", "where"), MISPLACED, ids=[f"{fix}: {where}" for fix, _, where in MISPLACED])
def test_a_fix_in_another_place(fix: str, after: bytes, where: str) -> None:
    before = SCRIPT.encode()
    if fix == "checkpoint-rotation":
        opened = codemod.run(fixes.load("deepspeed-checkpoint"), before, "train.py").content
        after = after.replace(SCRIPT.encode(), opened)
    assert judge.wrong(fix, before, after) != ""
    right = changes(before, codemod.run(fixes.load(fix), before, "train.py", None).content)
    assert differs(right or [Change("", (), ("x",), "", "")], before, after) != ""


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (SCRIPT.encode() + b"def f(:\n", "not Python: line "),
        (SCRIPT.replace("logs = {}", "logs = loss").encode(), "not done in "),
        (put("    global_step = 0", "    accelerator.end()\n"), "not done in "),
        (
            put("                break", " " * 12 + PRINT) + b"lost_and_found\n",
            "also done in the module: lost_and_found",
        ),
        (
            put("                break", " " * 12 + PRINT).replace(b"main(args)", b"train(args)"),
            "also done in the module: train(args)",
        ),
    ],
)
def test_what_is_not_the_change_of_the_pin(after: bytes, said: str) -> None:
    wanted = changes(SCRIPT.encode(), put("                break", " " * 12 + PRINT))
    assert differs(wanted, SCRIPT.encode(), after).startswith(said)


def test_a_neighbour_may_change() -> None:
    """Upstream adds a line beside the place: one neighbour is another, the change is the same."""
    wanted = changes(SCRIPT.encode(), put("    global_step = 0", "    accelerator.end()\n"))
    other = SCRIPT.replace("    global_step = 0\n", "    count = 1\n    global_step = 0\n")
    assert wanted[0].wanted_in(parse(other.encode()))
    assert differs(wanted, other.encode(), put("    global_step = 0", "    accelerator.end()\n", other)) == ""
    assert (
        differs(wanted, other.encode(), put("    accelerator = Accelerator()", "    accelerator.end()\n", other)) != ""
    )


def test_names_that_nothing_defines() -> None:
    inner = "    def g():\n        return b, os, c\n"
    script = f"import os\n\ndef f(a):\n    b = a\n{inner}    global d\n    d = 1\n\nprint(d, e)\n"
    assert undefined(script.encode()) == {"c": 1, "e": 1}


SCALER = """\
class Accelerator:
    def __init__(self, **kwargs):
        if self.fp16:
            if not torch.cuda.is_available() and not flag("MPS"):
                raise ValueError("fp16 mixed precision requires a GPU")
            if npu():
                self.scaler = torch.npu.amp.GradScaler(**kwargs)
            else:
                self.scaler = torch.cuda.amp.GradScaler(**kwargs)
        elif torch.cuda.is_available() and self.device.type != "cpu":
            self.scaler = torch.cuda.amp.GradScaler()
        if self.fp8:
            raise ValueError("requires a GPU")
"""
OTHER = f" and self.device.type != {OWN}:"
BRANCH = f"            elif self.device.type == {OWN}:\n"
BRANCH += "                self.scaler = getattr(torch, self.device.type).amp.GradScaler(**kwargs)\n"


@pytest.mark.parametrize(
    ("fix", "old", "new", "right"),
    [
        ("fp16-guard", 'flag("MPS"):', f'flag("MPS"){OTHER}', True),
        ("fp16-guard", "self.fp16:", f"self.fp16{OTHER}", False),
        ("fp16-guard", "self.fp8:", f"self.fp8{OTHER}", False),
        ("fp16-guard", 'not flag("MPS"):', f"self.device.type != {OWN}:", False),
        ("grad-scaler", "            else:\n", f"{BRANCH}            else:\n", True),
        (
            "grad-scaler",
            "            else:\n",
            f"{BRANCH.replace(OWN, 'mine')}            else:\n",
            False,
        ),
        ("grad-scaler", "            else:\n", f"{BRANCH.replace('(**kwargs)', '()')}            else:\n", False),
        ("grad-scaler", "torch.cuda.amp.GradScaler(**", "getattr(torch, self.device.type).amp.GradScaler(**", False),
    ],
)
def test_fixes_of_a_library(fix: str, old: str, new: str, right: bool) -> None:
    assert SCALER.count(old) == 1 and len(judge.lacking(fix, SCALER.encode())) == 1
    after = SCALER.replace(old, new).encode()
    assert (judge.wrong(fix, SCALER.encode(), after) == "") is right


OWN = "self.scaler = getattr(torch, self.device.type).amp.GradScaler"
CALL = "self.scaler = get_grad_scaler(self.distributed_type, **kwargs)"


@pytest.mark.parametrize(
    ("before", "after", "right"),
    [
        # in the first versions, without arguments and outside of any `else`
        ("torch.cuda.amp.GradScaler()", f"if {MINE}:\n        {OWN}()\n    else:\n        ", True),
        (
            "torch.cuda.amp.GradScaler()",
            f"if {MINE}:\n        {OWN}(**kwargs)\n    else:\n        ",
            False,
        ),
        ("torch.cuda.amp.GradScaler()", f"if {MINE}:\n        pass\n    else:\n        ", False),
        # a function that chooses, and shards under FSDP
        (CALL, f"if {' and '.join(UNSHARDED)}:\n        {OWN}(**kwargs)\n    else:\n        ", True),
        (CALL, f"if {MINE}:\n        {OWN}(**kwargs)\n    else:\n        ", False),
        (
            CALL,
            f"if {' and '.join(UNSHARDED)}:\n        {OWN}(**kwargs)\n    if True:\n        ",
            False,
        ),
    ],
)
def test_scalers_of_other_versions(before: str, after: str, right: bool) -> None:
    line = f"self.scaler = {before.removeprefix('self.scaler = ')}"
    script = f"from u import DistributedType, get_grad_scaler, self, kwargs, fp16, torch\nif fp16:\n    {line}\n"
    made = script.replace(line, f"{after}{line}").encode()
    assert judge.lacking("grad-scaler", script.encode()) == [3]
    assert (judge.wrong("grad-scaler", script.encode(), made) == "") is right
    for precision in ("bf16", "fp8"):
        test = f"if self.state.mixed_precision == {precision!r}:"
        other = script.replace("if fp16:", test).encode()
        assert bool(judge.lacking("grad-scaler", other)) is (precision == "fp8" and "()" not in before)


PREPARE = """\
class Accelerator:
    def prepare(self, *args, device_placement=None):
        check(args)
        tpu_should_fix_optimizer = self.xla
        if tpu_should_fix_optimizer:
            tpu_should_fix_optimizer = self.again
        return args

    def prepare_model(self, model, device_placement=None, evaluation_mode=False):
        return model
"""
OSS = f"        {PAIR[0]}\n" + "".join(f"        {line}\n" for line in PAIR[1].splitlines())


@pytest.mark.parametrize(
    ("above", "text", "right"),
    [
        ("        tpu_should_fix_optimizer = self.xla\n", OSS, True),
        ("        check(args)\n", OSS, False),
        ("        return args\n", OSS, False),
        ("        return model\n", OSS, False),
        ("        tpu_should_fix_optimizer = self.xla\n", OSS.replace("device_placement", "None"), False),
        ("        tpu_should_fix_optimizer = self.xla\n", OSS.replace("is not None", "is None"), False),
    ],
)
def test_oss_in_prepare(above: str, text: str, right: bool) -> None:
    after = PREPARE.replace(above, text + above).encode()
    assert judge.lacking("oss-prepare", PREPARE.encode()) == [4]
    assert (judge.wrong("oss-prepare", PREPARE.encode(), after) == "") is right
    for word in (", device_placement=None", ", evaluation_mode=False"):
        assert judge.lacking("oss-prepare", PREPARE.replace(word, "").encode()) == []


SWAP = "def f(a):\n    logs = {'avr': a}\n    show(logs, 1)\n"


@pytest.mark.parametrize(
    ("before", "after", "wanted", "right"),
    [
        (SWAP, SWAP.replace("'avr'", "'one': a, 'avr'"), True, True),
        # other words beside it
        (SWAP.replace("a}", "a, 'x': 2}"), SWAP.replace("'avr': a", "'one': a, 'avr': a, 'x': 2"), True, True),
        # another value, the right words elsewhere, too many of them
        (SWAP.replace("'avr'", "'one'"), SWAP.replace("'avr'", "'one': a, 'avr'"), False, False),
        (SWAP, SWAP.replace("logs, 1", "logs, 1, {'one': a, 'avr': a}"), True, False),
        (SWAP, SWAP.replace("'avr'", "'one': a, 'avr'").replace("1)", "2)"), True, False),
        (SWAP.replace("f(a)", "g(a)"), SWAP.replace("'avr'", "'one': a, 'avr'").replace("f(a)", "g(a)"), False, False),
    ],
)
def test_another_value(before: str, after: str, wanted: bool, right: bool) -> None:
    """A simple statement about the same with other words in it: those words are the change."""
    pinned = changes(SWAP.encode(), SWAP.replace("'avr'", "'one': a, 'avr'").encode())
    assert all(change.wanted_in(parse(before.encode())) for change in pinned) is wanted
    assert (differs(pinned, before.encode(), after.encode()) == "") is right


def test_what_is_built_on_another_fix_has_no_place_without_it() -> None:
    before, after = b"def f(a):\n    a = 1\n    run(a)\n", b"def f(a):\n    a = 1\n    given(a)\n    run(a)\n"
    imported = b"from other import given\n"
    (wanted,) = changes(imported + before, imported + after)
    assert wanted.wanted_in(parse(imported + before))
    assert not wanted.wanted_in(parse(before))
    assert differs([wanted], before, after) == "not defined: given"


def test_what_goes_may_go_on_otherwise() -> None:
    """A block that begins alike is the same block; that its inside is another is said."""
    new, old = b"def f():\n    b = 1\n    a = int(b)\n    run(a)\n", b"def f():\n    a = 1\n    run(a)\n"
    wanted = changes(old, new)
    other, made = old.replace(b"a = 1", b"a = 2"), new
    assert differs(wanted, other, made) == "" and other_text(wanted, other, made)
    assert differs(wanted, old, new) == "" and not other_text(wanted, old, new)
    assert differs(wanted, old.replace(b"a = 1", b"b = 1"), made) != ""


def test_another_way_to_say_it() -> None:
    """The guard of accelerate's first versions formats its message."""
    said = SCALER.replace('"fp16 mixed precision requires a GPU"', 'err.format(mode="fp16", requirement="a GPU")')
    right = said.replace('flag("MPS"):', f'flag("MPS"){OTHER}')
    assert judge.lacking("fp16-guard", said.encode()) == [4]
    assert judge.wrong("fp16-guard", said.encode(), right.encode()) == ""


def test_a_file_that_is_not_python_has_lines() -> None:
    assert is_python(b"a = 1\n") and not is_python(b"exit $?\n") and not is_python(b"a\0")
    assert lines(b"fi\nfi\nexit 0\n", b"fi\nexit $?\n") == ({b"fi", b"exit 0"}, {b"exit $?"})
