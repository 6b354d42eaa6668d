"""validation-dtype: give the parts of a validation pipeline dtypes that fit, and leave those in training alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from fixing import Case, case, check_applied, conflict, gone, run, satisfied, tables

NAME = "validation-dtype"
BOTH = "import copy\nfrom accelerate import Accelerator, DistributedType\n"
ONE = "import copy\nfrom accelerate import Accelerator\n"
ARGUMENTS = "(pipeline, accelerator, torch_dtype, is_final_validation=False)"
DEFINITION = f"def log_validation{ARGUMENTS}:\n"
MOVE = "    pipeline = pipeline.to(accelerator.device)\n"
FIX = (
    "    pipeline.vae = copy.deepcopy(pipeline.vae).float()  # training keeps its own\n"
    "    if is_final_validation or accelerator.distributed_type == DistributedType.DEEPSPEED:\n"
    "        pipeline = pipeline.to(dtype=torch_dtype)  # what DeepSpeed trains has it already\n"
)
LAST = "is_final_validation"
IMAGES = "    return pipeline()\n"
LOADED = "".join(f"    pipeline = Pipeline.from_pretrained(m, vae={vae})\n" for vae in ("Autoencoder(m)", "vae"))
MODULE = "accelerator = Accelerator()\ntorch_dtype = weight_dtype = accelerator.mixed_precision\n"
NEWLINE = "\n"
# As the SD3 and Flux scripts were before upstream threaded the dtype itself.
UNTHREADED = f"""\
import copy
{{imports}}

def log_validation(
    pipeline,
    accelerator,
    pipeline_args,
{{parameter}}    is_final_validation=False,
):
{{fix}}{MOVE}{IMAGES}

def main(accelerator):
    weight_dtype = "bfloat16"
    if accelerator.is_main_process:
        images = log_validation(
            pipeline=Pipeline(),
            accelerator=accelerator,
            pipeline_args={{{{}}}},
{{argument}}        )
        log_validation(
            Pipeline(),
            accelerator,
            {{{{}}}},
            is_final_validation=True,
{{argument}}        )
"""
THREADED = (
    UNTHREADED.format(imports=ONE.partition(NEWLINE)[2], parameter="", fix="", argument=""),
    UNTHREADED.format(
        imports=BOTH.partition(NEWLINE)[2],
        parameter="    torch_dtype,\n",
        fix=FIX,
        argument="            torch_dtype=weight_dtype,\n",
    ),
)


def scripts(id: str, before: str, after: str, **options: str) -> Any:
    return case(id, f"{before}{IMAGES}", f"{after}{IMAGES}", **options)


APPLIED = [
    scripts("as in the script", f"{ONE}{DEFINITION}{MOVE}", f"{BOTH}{DEFINITION}{FIX}{MOVE}"),
    scripts(
        "the source document's edit is taken back",
        f"{BOTH}{DEFINITION}{MOVE[:-2]}, dtype=torch_dtype)\n",
        f"{BOTH}{DEFINITION}{FIX}{MOVE}",
    ),
    scripts(
        "blank lines and comments",
        f"{BOTH}{DEFINITION}    log()\n\n    # to it\n    pipeline=pipeline.to( accelerator.device )  # now\n",
        f"{BOTH}{DEFINITION}    log()\n\n{FIX}    # to it\n    pipeline=pipeline.to( accelerator.device )  # now\n",
    ),
    scripts(
        "autocast only spoken of",
        f"{BOTH}{DEFINITION}{MOVE}    # autocast_ctx = torch.autocast(accelerator.device.type)\n",
        f"{BOTH}{DEFINITION}{FIX}{MOVE}    # autocast_ctx = torch.autocast(accelerator.device.type)\n",
    ),
    scripts(
        "another library's accelerator",
        f"import copy\nfrom tinytrain import Accelerator\n{DEFINITION}{MOVE}",
        f"import copy\nfrom tinytrain import Accelerator, DistributedType\n{DEFINITION}{FIX}{MOVE}",
        accelerate="tinytrain",
    ),
    scripts(
        "no copy",
        f"import argparse\nimport os\n{BOTH.partition(NEWLINE)[2]}{DEFINITION}{MOVE}",
        f"import argparse\nimport copy\nimport os\n{BOTH.partition(NEWLINE)[2]}{DEFINITION}{FIX}{MOVE}",
    ),
    case("the dtype of its callers", *THREADED),
    *(
        case(
            f"the dtype of its callers, {how}",
            f"{ONE}accelerator = Accelerator()\ndef log_validation({before}):\n{MOVE}{IMAGES}"
            f"def main(pipe, weight_dtype):\n    log_validation({call})\n",
            f"{BOTH}accelerator = Accelerator()\ndef log_validation({after}):\n{FIX}{MOVE}{IMAGES}"
            f"def main(pipe, weight_dtype):\n    log_validation({call}, torch_dtype=weight_dtype)\n",
        )
        for how, before, after, call in (
            ("second of two", f"pipeline, {LAST}", f"pipeline, torch_dtype, {LAST}", f"pipe, {LAST}=True"),
            ("first of two", f"{LAST}, pipeline", f"torch_dtype, {LAST}, pipeline", f"{LAST}=True, pipeline=pipe"),
        )
    ),
    case(
        "the dtype of its callers, in one line",
        f"{ONE}def log_validation(pipeline, accelerator, is_final_validation):\n{MOVE}{IMAGES}"
        f"def main(m, accelerator, weight_dtype):\n{LOADED}    log_validation(pipeline, accelerator=accelerator)\n",
        f"{BOTH}def log_validation(pipeline, accelerator, torch_dtype, is_final_validation):\n{FIX}{MOVE}{IMAGES}"
        f"def main(m, accelerator, weight_dtype):\n{LOADED}"
        "    log_validation(pipeline, accelerator=accelerator, torch_dtype=weight_dtype)\n",
    ),
    case(
        "the module's dtype",
        f"{ONE}{MODULE}def log_validation(pipeline, {LAST}):\n{MOVE}{IMAGES}log_validation(pipe, {LAST}=True)\n",
        f"{BOTH}{MODULE}def log_validation(pipeline, {LAST}):\n{FIX}{MOVE}{IMAGES}log_validation(pipe, {LAST}=True)\n",
    ),
]


def refused(id: str, reason: str, line: int, text: str) -> Any:
    return conflict(id, reason, line, text + IMAGES)


REFUSED = [
    conflict(
        "made without a VAE",
        "its pipeline is made without a VAE (line 6)",
        4,
        f"{ONE}{DEFINITION}{MOVE}{IMAGES}" + "pipeline = FluxPipeline.from_pretrained(m, vae=None)\n" * 2,
    ),
    conflict(
        "its VAE has a name",
        "`v` would be the VAE that trains, not the pipeline's",
        5,
        f"{ONE}{DEFINITION}    v = pipeline.vae\n{MOVE}{IMAGES}",
    ),
    conflict(
        "`copy` is a function",
        "`copy` is `copy.copy` there (line 3): import that under another name",
        6,
        f"{ONE}from copy import copy\n{DEFINITION}    ema = copy(vae)\n{MOVE}{IMAGES}",
    ),
    gone(
        "under its caller's autocast",
        f"{ONE}{DEFINITION}{MOVE}{IMAGES}with accelerator.autocast():\n    log_validation(pipeline, accelerator)\n",
    ),
    gone(
        "under its caller's autocast, by a name",
        f"{ONE}{DEFINITION}{MOVE}{IMAGES}ctx = torch.autocast('npu')\n"
        "with ctx:\n    log_validation(pipeline, accelerator)\n",
    ),
    gone(
        "under autocast that may be left out",
        f"{ONE}{DEFINITION}{MOVE}    ctx = torch.autocast if amp else nullcontext\n"
        "    with ctx():\n        pipeline()\n",
    ),
    gone("under what may be autocast", f"{ONE}{DEFINITION}{MOVE}    with maybe_autocast(1):\n        pipeline()\n"),
    conflict(
        "no VAE",
        "its pipeline (`DDPMPipeline`) is not known to have a VAE",
        4,
        f"{ONE}{DEFINITION}{MOVE}{IMAGES}log_validation(DDPMPipeline(unet=unet), accelerator, dtype)\n",
    ),
    conflict(
        "another VAE",
        "it gives its pipeline another VAE",
        4,
        f"{ONE}{DEFINITION}{MOVE}    pipeline.vae = AutoencoderKL()\n{IMAGES}",
    ),
    conflict(
        "no VAE in either",
        "its pipeline (`DDPMPipeline`) is not known to have a VAE",
        4,
        f"{ONE}{DEFINITION}{MOVE}{IMAGES}log_validation(DDPMPipeline(unet=unet), accelerator, dtype)\n"
        "ZPipeline.from_pretrained(x)\n",
    ),
    satisfied("there", f"{BOTH}{DEFINITION}{FIX}{MOVE}{IMAGES}"),
    gone("under autocast", f"{BOTH}{DEFINITION}{MOVE}    with torch.autocast('cuda'):\n        pipeline()\n"),
    gone("in another function", f"{BOTH}def main{ARGUMENTS}:\n{MOVE}"),
    gone(
        "another pipeline's dtype",
        f"{BOTH}{DEFINITION}    pipeline.text_encoder = pipeline.text_encoder.to(torch.bfloat16)\n",
    ),
    refused(
        "no dtype",
        "`torch_dtype` is not bound",
        4,
        f"{BOTH}def log_validation(pipeline, accelerator, is_final_validation):\n{MOVE}",
    ),
    refused(
        "no accelerator",
        "`accelerator` is not bound",
        4,
        f"{BOTH}def log_validation(pipeline, torch_dtype, is_final_validation):\n{MOVE}",
    ),
    refused(
        "not told whether it is the final one",
        "`is_final_validation` is not bound",
        4,
        f"{BOTH}def log_validation(pipeline, accelerator, torch_dtype):\n{MOVE}",
    ),
    *(
        conflict(f"no dtype, and {why}", "`torch_dtype` is not bound there", 11, THREADED[0].replace(*change))
        for why, *change in (
            ("none in the caller", 'weight_dtype = "bfloat16"', "pass"),
            ("what comes after it is passed by position", "is_final_validation=True", "True"),
            ("the arguments are not known", "            pipeline_args={}", "            **{}"),
            ("the positions are not known", "            {},\n", "            *[{}],\n"),
            ("there is another use", "images = log", "images = [log_validation]; log"),
            ("somebody looks at its result", "images = log_validation(\n", "images = list(log_validation)(\n"),
            ("there is no room", "pipeline_args,\n", "pipeline_args=None,\n"),
            ("it builds its own pipeline", "    pipeline,\n", "    unet,\n"),
            ("it knows the dtypes of its parts", "    return", "    pipeline.vae.to(torch.float32)\n    return"),
        )
    ),
    conflict("nobody calls it", "`torch_dtype` is not bound there", 11, THREADED[0].partition("\n\ndef main")[0]),
    refused(
        "another dtype",
        "it moves its pipeline in another way",
        4,
        f"{BOTH}{DEFINITION}{MOVE[:-2]}, dtype=torch.float16)\n",
    ),
    refused(
        "another name",
        "it moves its pipeline in another way",
        4,
        f"{BOTH}{DEFINITION}    pipe = pipe.to(accelerator.device)\n",
    ),
    refused(
        "not kept",
        "it moves its pipeline in another way",
        4,
        f"{BOTH}{DEFINITION}    pipeline.to(accelerator.device)\n",
    ),
    refused(
        "only sometimes",
        "it moves its pipeline in a block of its own",
        5,
        f"{BOTH}{DEFINITION}    if accelerator:\n        pipeline = pipeline.to(accelerator.device)\n",
    ),
    refused("twice", "expected 1 place to fix, found 2 (lines 4, 5)", 4, f"{BOTH}{DEFINITION}{MOVE}{MOVE}"),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


@dataclass
class Part:
    dtype: str = "float32"

    def to(self, dtype: str) -> None:
        self.dtype = dtype

    def float(self) -> Part:
        self.to("float32")
        return self


@dataclass
class Pipeline:
    """The dtypes of a pipeline's parts; it makes an image of the transformer's output with the VAE."""

    transformer: Part
    vae: Part
    text_encoder: Part = field(default_factory=Part)
    wrapped: bool = False

    def to(self, device: str = "", dtype: str = "") -> Pipeline:
        for part in (self.transformer, self.vae, self.text_encoder) if dtype else ():
            part.to(dtype)
        return self

    def __call__(self) -> str:
        if not self.wrapped and self.text_encoder.dtype != self.transformer.dtype:
            raise RuntimeError("mat1 and mat2 must have the same dtype")
        latents = "float32" if self.wrapped else self.transformer.dtype
        if latents != self.vae.dtype:
            raise RuntimeError(f"Input type ({latents}) and bias type ({self.vae.dtype}) should be the same")
        return "image"


SITUATIONS = {
    "DeepSpeed": ("DEEPSPEED", "bfloat16", "float32", False),
    "SD3 without DeepSpeed": ("MULTI_NPU", "float32", "float32", True),
    "Flux without DeepSpeed": ("NO", "bfloat16", "bfloat16", True),
}


def _validate(text: str, situation: str) -> tuple[str, str, str]:
    """What comes of a validation, and the dtypes that the transformer and the VAE of training have afterwards."""
    distributed, transformer, vae, wrapped = SITUATIONS[situation]
    pipeline = Pipeline(Part(transformer), Part(vae), wrapped=wrapped)
    in_training = pipeline.transformer, pipeline.vae
    names = {"copy": copy, "DistributedType": SimpleNamespace(DEEPSPEED="DEEPSPEED")}
    log_validation = run(text.partition("Accelerator")[2].partition("\n")[2], **names)["log_validation"]
    accelerator = SimpleNamespace(device="npu", distributed_type=distributed)
    try:
        came = log_validation(pipeline, accelerator, "bfloat16")
    except RuntimeError as error:
        came = str(error)
    return came, in_training[0].dtype, in_training[1].dtype


@pytest.mark.parametrize("situation", SITUATIONS)
def test_it_validates_everywhere_and_training_keeps_its_dtypes(situation: str) -> None:
    _, transformer, vae, _ = SITUATIONS[situation]
    assert _validate(APPLIED[0].values[0].after, situation) == ("image", transformer, vae)


def test_red_what_upstream_and_the_seed_do() -> None:
    upstream, seed = APPLIED[0].values[0].before, APPLIED[1].values[0].before
    assert _validate(upstream, "DeepSpeed")[0] == "mat1 and mat2 must have the same dtype"
    assert _validate(upstream, "SD3 without DeepSpeed")[0] == "image"
    assert _validate(upstream, "Flux without DeepSpeed")[0].startswith("Input type (float32) and bias type (bfloat16)")
    assert _validate(seed, "DeepSpeed") == ("image", "bfloat16", "bfloat16")  # the VAE of training was cast
    came, transformer, _ = _validate(seed, "SD3 without DeepSpeed")
    assert came.startswith("Input type (float32) and bias type (bfloat16)")
    assert transformer == "bfloat16"  # and so was what is trained


def test_the_dtype_comes_from_the_callers() -> None:
    accelerator = SimpleNamespace(device="npu", distributed_type="DEEPSPEED", is_main_process=True)
    names = {"copy": copy, "DistributedType": SimpleNamespace(DEEPSPEED="DEEPSPEED")}
    names["Pipeline"] = lambda: Pipeline(Part("bfloat16"), Part("float32"))
    before, after = (run(text.partition("Accelerator")[2].partition("\n")[2], **names)["main"] for text in THREADED)
    with pytest.raises(RuntimeError, match="mat1 and mat2 must have the same dtype"):
        before(accelerator)
    after(accelerator)


def test_copy_is_imported_below_the_only_import() -> None:
    check_applied(
        NAME,
        Case(
            f"from accelerate import Accelerator\n{DEFINITION}{MOVE}{IMAGES}",
            f"from accelerate import Accelerator, DistributedType\nimport copy\n{DEFINITION}{FIX}{MOVE}{IMAGES}",
        ),
    )
