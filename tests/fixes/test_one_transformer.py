"""one-transformer: before and after, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, conflict, gone, run, satisfied

NAME = "one-transformer"

SCRIPT = """\
from accelerate import DistributedType


def main(accelerator, Transformer, load):
    def load_model_hook(models, input_dir):
{leaves}        transformer_ = None
        if not accelerator.distributed_type == DistributedType.DEEPSPEED:
            transformer_ = models.pop()
        else:
            transformer_ = Transformer()
        load(transformer_, input_dir)

    return load_model_hook
"""
LEAVES = """\
        if accelerator.distributed_type == DistributedType.DEEPSPEED:
            return  # its engine has loaded the LoRA
"""
BEFORE, AFTER = SCRIPT.format(leaves=""), SCRIPT.format(leaves=LEAVES)

APPLIED = [case("as in the scripts", BEFORE, AFTER)]

REFUSED = [
    satisfied("there", AFTER),
    gone("another hook", BEFORE.replace("load_model_hook", "save_model_hook")),
    conflict("no DistributedType", "`DistributedType` is not bound", 3, BEFORE.partition("\n\n\n")[2]),
]


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)


@pytest.mark.parametrize("engine", ["DEEPSPEED", "NO"])
@pytest.mark.parametrize(("text", "made"), [(BEFORE, 1), (AFTER, 0)])
def test_deepspeed_makes_no_second_one(engine: str, text: str, made: int) -> None:
    kinds = SimpleNamespace(DEEPSPEED="DEEPSPEED")
    second: list[int] = []
    loaded: list[object] = []
    body = text.partition("\n\n\n")[2]
    accelerator = SimpleNamespace(distributed_type=engine)
    main = run(body, DistributedType=kinds)["main"]
    main(accelerator, lambda: second.append(1), lambda model, folder: loaded.append(model))(
        [] if engine == "DEEPSPEED" else ["own"], "checkpoint-1"
    )
    assert len(second) == (made if engine == "DEEPSPEED" else 0)
    assert loaded == ([None] * made if engine == "DEEPSPEED" else ["own"])
