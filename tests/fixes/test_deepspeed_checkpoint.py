"""deepspeed-checkpoint: let every DeepSpeed rank take part in saving a checkpoint."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fixing import case, conflict, gone, run, satisfied, tables

NAME = "deepspeed-checkpoint"
FROM = "from accelerate import Accelerator\n"
BOTH = "from accelerate import Accelerator, DistributedType\n"
OPEN = "accelerator.is_main_process or accelerator.distributed_type == DistributedType.DEEPSPEED"
SAVES = "        accelerator.save_state(1)\n"
SAVE = """
def main(accelerator):
    if {gate}:
        if global_step % args.checkpointing_steps == 0:
            accelerator.save_state(save_path)
            logger.info(f"Saved state to {{save_path}}")
"""
HOOKED = """
def main(accelerator):
    def save_model_hook(models, weights, output_dir):
        for model in models:
            {line}
            weights.pop()

    accelerator.register_save_state_pre_hook(save_model_hook)
    if {gate}:
        accelerator.save_state(1)
"""
OPENED_HOOK = HOOKED.format(gate=OPEN, line="save_file(model, output_dir)")
CLOSED, OPENED = SAVE.format(gate="accelerator.is_main_process"), SAVE.format(gate=OPEN)


def imports(id: str, before: str, after: str, **options: str) -> pytest.param:  # type: ignore[valid-type]
    return case(id, before + CLOSED, after + OPENED, **options)


APPLIED = [
    imports("as in the script", FROM, BOTH),
    case("open, but the name is lacking", *(f"{names}{OPENED_HOOK}" for names in (FROM, BOTH))),
    *(
        case(
            f"what one process alone should do, {where}",
            f"{BOTH}def main(accelerator):\n    if accelerator.is_main_process:\n{saves}{both}",
            f"{BOTH}def main(accelerator):\n    if {OPEN}:\n{saves}"
            + "        if accelerator.is_main_process:\n"
            + "".join(f"    {line}\n" for line in both.splitlines()),
        )
        for where, saves in (("second", SAVES), ("third", f"{SAVES}{SAVES}"))
        for both in (
            "        if args.push:\n            model.push()\n        model.save_pretrained(1)\n",
            "        if args.push:\n            push()\n        else:\n            model.save_pretrained(1)\n",
        )
    ),
    case(
        "a choice that one process alone should make",
        f"{BOTH}def main(accelerator):\n    if accelerator.is_main_process:\n{SAVES}"
        "        if args.push:\n            model.push()\n",
        f"{BOTH}def main(accelerator):\n    if {OPEN}:\n{SAVES}        if args.push and accelerator.is_main_process:\n"
        "            model.push()\n",
    ),
    imports(
        "in its alphabetical place",
        "from accelerate import Accelerator, skip\n",
        "from accelerate import Accelerator, DistributedType, skip\n",
    ),
    imports(
        "a comment and spacing of its own",
        "# accelerate\nfrom accelerate import Accelerator,skip as s  # noqa\n",
        "# accelerate\nfrom accelerate import Accelerator,DistributedType, skip as s  # noqa\n",
    ),
    imports(
        "over several lines, with comments",
        "from accelerate import (  # all\n    Accelerator,  # the one\n    # and\n    skip as s,\n)\nimport os\n",
        "from accelerate import (  # all\n    Accelerator,  # the one\n    # and\n    skip as s,\n)\n"
        "from accelerate import DistributedType\nimport os\n",
    ),
    imports(
        "in parentheses on a line",
        "from accelerate import (Accelerator)\n",
        "from accelerate import (Accelerator)\nfrom accelerate import DistributedType\n",
    ),
    imports(
        "two imports: the one of Accelerator",
        f"from accelerate import skip\n{FROM}{FROM}",
        f"from accelerate import skip\n{BOTH}{FROM}",
    ),
    case(
        "open to others already",
        FROM + SAVE.format(gate="accelerator.is_main_process or is_fsdp"),
        BOTH + SAVE.format(gate=f"accelerator.is_main_process or is_fsdp or {OPEN.partition(' or ')[2]}"),
    ),
    imports(
        "behind a semicolon",
        "from accelerate import Accelerator; import os\n",
        "from accelerate import Accelerator; import os\nfrom accelerate import DistributedType\n",
    ),
    imports(
        "behind another import",
        "import sys; from accelerate import Accelerator\n",
        "import sys; from accelerate import Accelerator\nfrom accelerate import DistributedType\n",
    ),
    imports(
        "imported already, from elsewhere",
        f"{FROM}from accelerate.utils import DistributedType\n",
        f"{FROM}from accelerate.utils import DistributedType\n",
    ),
    imports(
        "imported under another name",
        f"{FROM}from accelerate import DistributedType as D\n",
        f"{BOTH}from accelerate import DistributedType as D\n",
    ),
    imports(
        "another library's accelerator",
        "from tinytrain import Accelerator\n",
        "from tinytrain import Accelerator, DistributedType\n",
        accelerate="tinytrain",
    ),
    case(
        "comments, an inner loop, an async function, a result that is kept",
        f"{BOTH}async def main(accelerator):\n    # only one\n    if  accelerator.is_main_process :  # main\n"
        "        for path in paths:\n            with path:\n                accelerator.save_state(path)\n",
        f"{BOTH}async def main(accelerator):\n    # only one\n    if  {OPEN} :  # main\n"
        "        for path in paths:\n            with path:\n                accelerator.save_state(path)\n",
    ),
    case(
        "other blocks of the main process are left alone",
        f"{BOTH}{CLOSED}    if accelerator.is_main_process:\n        log()\n",
        f"{BOTH}{OPENED}    if accelerator.is_main_process:\n        log()\n",
    ),
    imports(
        "a star", "from accelerate import *\n", "from accelerate import *\nfrom accelerate import DistributedType\n"
    ),
    imports(
        "imported in a try",
        "try:\n    from accelerate import Accelerator\nexcept ImportError:\n    pass\n",
        "try:\n    from accelerate import Accelerator, DistributedType\nexcept ImportError:\n    pass\n",
    ),
    case(
        "only the module is imported",
        "import accelerate\n" + CLOSED,
        "import accelerate\n" + OPENED.replace("DistributedType", "accelerate.DistributedType"),
    ),
    case(
        "another condition besides",
        BOTH + SAVE.format(gate="x and accelerator.is_main_process"),
        BOTH + SAVE.format(gate=f"x and ({OPEN})"),
    ),
    case(
        "the main process of each machine",
        BOTH + SAVE.format(gate="accelerator.is_local_main_process"),
        BOTH + SAVE.format(gate=OPEN.replace("is_main", "is_local_main")),
    ),
    case(
        "on one line, and what it gives back is kept",
        BOTH + "def main(accelerator):\n    if accelerator.is_main_process: path = accelerator.save_state(1)\n",
        BOTH + f"def main(accelerator):\n    if {OPEN}: path = accelerator.save_state(1)\n",
    ),
    case(
        "in a helper that is called under the gate",
        f"{BOTH}def save(accelerator):\n    accelerator.save_state(1)\ndef main(accelerator):\n"
        "    if accelerator.is_main_process:\n        save(accelerator)\n",
        f"{BOTH}def save(accelerator):\n    accelerator.save_state(1)\ndef main(accelerator):\n"
        f"    if {OPEN}:\n        save(accelerator)\n",
    ),
    case(
        "a hook writes on every process that saves",
        BOTH + HOOKED.format(gate="accelerator.is_main_process", line="model.save_pretrained(output_dir)"),
        BOTH
        + HOOKED.format(
            gate=OPEN,
            line="if accelerator.is_main_process:\n                model.save_pretrained(output_dir)",
        ),
    ),
    *(
        case(f"a hook {id}", text.format(gate="accelerator.is_main_process"), text.format(gate=OPEN))
        for id, text in {
            "writes on the main process": BOTH
            + HOOKED.replace("{line}", "if accelerator.is_main_process:\n                model.save_pretrained(1)"),
            "writes a file of each process": BOTH
            + HOOKED.replace("{line}", "torch.save(model, f'{{output_dir}}/{{accelerator.process_index}}.pt')"),
            "leaves the others": BOTH
            + HOOKED.replace(
                "        for", "        if not accelerator.is_main_process:\n            return\n        for"
            ).replace("{line}", "model.save_pretrained(output_dir)"),
        }.items()
    ),
    case("open, and the name is not imported", FROM + OPENED, BOTH + OPENED),
]


def refused(id: str, reason: str, line: int, body: str, head: str = BOTH) -> pytest.param:  # type: ignore[valid-type]
    return conflict(id, reason, line, f"{head}def main(accelerator):\n{body}")


REFUSED = [
    satisfied("there", BOTH + OPENED),
    satisfied(
        "the other way round",
        BOTH
        + SAVE.format(gate="accelerator.distributed_type == DistributedType.DEEPSPEED or accelerator.is_main_process"),
    ),
    gone("every rank saves", f"{BOTH}def main(accelerator):\n    accelerator.save_state(1)\n"),
    gone("only spoken of", f'{BOTH}if accelerator.is_main_process:\n    log("accelerator.save_state(x)")\n'),
    gone("another gate", f"{BOTH}if step % 5 == 0:\n    accelerator.save_state(1)\n"),
    refused(
        "twice in a file",
        "expected 1 place to fix, found 2 (lines 3, 5)",
        3,
        "    if accelerator.is_main_process:\n        accelerator.save_state(1)\n"
        "    if accelerator.is_main_process:\n        accelerator.save_state(2)\n",
    ),
    refused(
        "a second gate inside",
        "expected 1 place to fix, found 2 (lines 3, 4)",
        3,
        "    if accelerator.is_main_process:\n        if accelerator.is_main_process:\n"
        "            accelerator.save_state(1)\n",
    ),
    refused(
        "DeepSpeed shut out",
        "its test shuts DeepSpeed out",
        3,
        "    if accelerator.is_main_process and accelerator.distributed_type != DistributedType.DEEPSPEED:\n"
        "        accelerator.save_state(1)\n",
    ),
    refused(
        "an elif",
        "it is an `elif`",
        5,
        "    if x:\n        pass\n    elif accelerator.is_main_process:\n        accelerator.save_state(1)\n",
    ),
    refused(
        "with an elif",
        "its `else` is for the other processes",
        3,
        "    if accelerator.is_main_process:\n        accelerator.save_state(1)\n    elif x:\n        pass\n",
    ),
    refused(
        "with an else that the other ranks go to",
        "its `else` is for the other processes",
        3,
        "    if accelerator.is_main_process:\n        accelerator.save_state(1)\n    else:\n"
        "        accelerator.wait_for_everyone()\n",
    ),
    refused(
        "in the else",
        "turn that into an `if` for the main process",
        3,
        "    if not accelerator.is_main_process:\n        pass\n    else:\n        accelerator.save_state(1)\n",
    ),
    conflict(
        "a hook writes, and what it gives is needed",
        "the hook `save_model_hook` writes on every process that saves (`model.save_pretrained(…)`)",
        10,
        BOTH + HOOKED.format(gate="accelerator.is_main_process", line="path = model.save_pretrained(output_dir)"),
    ),
    conflict(
        "imported where it is needed alone",
        "accelerate is imported in a function alone (line 2)",
        4,
        "def main():\n    from accelerate import Accelerator\n    accelerator = Accelerator()\n"
        "    if accelerator.is_main_process:\n        accelerator.save_state(1)\n",
    ),
    conflict(
        "not bound",
        "`accelerator` is not bound",
        3,
        f"{BOTH}def main():\n    if accelerator.is_main_process:\n        accelerator.save_state(1)\n",
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@pytest.mark.parametrize(
    ("main", "kind", "before", "after"),
    [(True, "DEEPSPEED", 1, 1), (False, "DEEPSPEED", 0, 1), (True, "MULTI_NPU", 1, 1), (False, "MULTI_NPU", 0, 0)],
)
def test_who_saves(main: bool, kind: str, before: int, after: int) -> None:
    """Under DeepSpeed every rank, otherwise the main process alone."""
    for text, wanted in ((CLOSED, before), (OPENED, after)):
        saved: list[str] = []
        accelerator = SimpleNamespace(is_main_process=main, distributed_type=kind, save_state=saved.append)
        names = {
            "DistributedType": SimpleNamespace(DEEPSPEED="DEEPSPEED"),
            "global_step": 2,
            "args": SimpleNamespace(checkpointing_steps=2),
            "save_path": "checkpoint-2",
            "logger": SimpleNamespace(info=lambda text: None),
        }
        run(text, **names)["main"](accelerator)
        assert len(saved) == wanted
