"""resume-progress: go on from the epoch, the batch and the step of the state."""

from __future__ import annotations

from fixing import case, conflict, gone, tables

NAME = "resume-progress"
BEFORE = """
    import library.train_util as train_util
    import library.config_util as config_util


    def train(args):
        prepare()

        # resume
        train_util.resume_from_local_or_hf_if_specified(accelerator, args)

        progress_bar = tqdm(range(args.max_train_steps), smoothing=0, disable=not accelerator.is_local_main_process, desc="steps")
        global_step = 0
        for epoch in range(num_train_epochs):
            accelerator.print(f"\\nepoch {epoch+1}/{num_train_epochs}")
            current_epoch.value = epoch + 1

            for step, batch in enumerate(train_dataloader):
                current_step.value = global_step
                loss = forward(batch)
                global_step += 1
                if due:
                    collect_state(args, optimizer)
                    save()
    """  # noqa: E501
AFTER = """
    import library.train_util as train_util
    import library.config_util as config_util
    from library.progress import Progress


    def train(args):
        prepare()

        progress = Progress(args, accelerator, train_dataloader, train_dataset_group)

        # resume
        train_util.resume_from_local_or_hf_if_specified(accelerator, args)

        progress_bar = tqdm(range(args.max_train_steps), initial=progress.step, smoothing=0, disable=not accelerator.is_local_main_process, desc="steps")
        global_step = progress.step
        for epoch in range(num_train_epochs):
            if epoch < progress.epoch:
                continue
            accelerator.print(f"\\nepoch {epoch+1}/{num_train_epochs}")
            current_epoch.value = epoch + 1

            progress.begin(epoch, loss_recorder)

            for step, batch in enumerate(train_dataloader):
                if progress.passes_by(step):
                    continue
                current_step.value = global_step
                loss = forward(batch)
                global_step += 1
                if due:
                    progress.collect(global_step, loss)
                    collect_state(args, optimizer)
                    save()
    """  # noqa: E501

APPLIED = [case("as in the script", BEFORE, AFTER, count=8)]

REFUSED = [
    gone(
        "another script",
        """
        def main(args):
            for step, batch in enumerate(train_dataloader):
                forward(batch)
        """,
    ),
    conflict(
        "no place to go on from",
        "expected 8 places to fix, found 7",
        2,
        BEFORE.replace("global_step = 0", "pass"),
        count=8,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
