"""Let kohya's SDXL script go on where the state it resumes from was saved."""

from __future__ import annotations

from kit.fixes._table import Put, Swap, table

TITLE = "go on from the epoch, the batch and the step of the state"
WHY = """\
--resume loads weights, optimizer and schedule, and then starts at step 0 of epoch 1: what is done is trained again, at
the rates that come after it, and the run takes as many steps more. Here the state has epoch, batch, step and every
process's random states (library/progress.py, overlay). What is done is passed by, and the run goes on as if it had
never stopped, with the same batches, noise and losses."""
LINKS = (
    "https://github.com/kohya-ss/sd-scripts/issues/14",
    "https://github.com/kohya-ss/sd-scripts/pull/1359",
)
NEEDS = ("train_util",)

_BAR = 'tqdm(range(args.max_train_steps), {}smoothing=0, disable=not accelerator.is_local_main_process, desc="steps")'

sites, edits = table(
    Put("", "import library.config_util as config_util", "from library.progress import Progress"),
    Put(
        "train",
        "train_util.resume_from_local_or_hf_if_specified(",
        "progress = Progress(args, accelerator, train_dataloader, train_dataset_group)",
        how="before",
    ),
    Swap("train", "progress_bar = ", _BAR.format(""), _BAR.format("initial=progress.step, ")),
    Swap("train", "global_step = ", "0", "progress.step"),
    Put(
        "train",
        "accelerator.print(f'\\nepoch ",
        """
        if epoch < progress.epoch:
            continue
        """,
        how="before",
    ),
    Put(
        "train",
        "for step, batch in enumerate(train_dataloader)",
        "progress.begin(epoch, loss_recorder)",
        how="before",
    ),
    Put(
        "train",
        "current_step.value = global_step",
        """
        if progress.passes_by(step):
            continue
        """,
        how="before",
    ),
    Put("train", "collect_state(args, optimizer)", "progress.collect(global_step, loss)", how="before"),
)
