"""deepspeed-checkpoint: what one process alone has or does beside a save, which all the others would come to, too."""

from __future__ import annotations

from fixing import tables
from test_deepspeed_checkpoint import NAME, refused

REFUSED = [
    *(
        refused(f"one process alone has it: {id}", reason, line, body)
        for id, reason, line, body in [
            (
                "a name",
                "line 4 gives `out` to the main process alone",
                5,
                "    if accelerator.is_main_process:\n        out = wandb.init().id\n"
                "    if accelerator.is_main_process:\n        accelerator.save_state(out)\n",
            ),
            (
                "None for the others",
                "line 5 gives `run` to the main process alone",
                6,
                "    run = None\n    if accelerator.is_main_process:\n        run = wandb.init()\n"
                "    if accelerator.is_main_process and run.saves:\n        accelerator.save_state(1)\n",
            ),
            (
                "a progress bar",
                "line 4 gives `pbar` to the main process alone",
                5,
                "    if accelerator.is_main_process:\n        pbar = tqdm()\n    if accelerator.is_main_process:\n"
                "        pbar.update(1)\n        accelerator.save_state(1)\n",
            ),
            (
                "what it counts",
                "line 5 gives `n` to the main process alone",
                6,
                "    n = 0\n    if accelerator.is_main_process:\n        n = resumed()\n"
                "    if accelerator.is_main_process:\n        n += 1\n        accelerator.save_state(1)\n",
            ),
            (
                "a name in the round before",
                "line 7 gives `out` to the main process alone",
                4,
                "    for step in loader:\n        if accelerator.is_main_process:\n"
                "            accelerator.save_state(out)\n"
                "        if accelerator.is_main_process:\n            out = step\n",
            ),
            (
                "an attribute",
                "line 4 gives `self.out` to the main process alone",
                5,
                "    if accelerator.is_main_process:\n        self.out = new()\n"
                "    if accelerator.is_main_process:\n        accelerator.save_state(self.out)\n",
            ),
        ]
    ),
    *(
        refused(
            f"others still write there: {id}",
            f"`{call}(…)` takes the folder",
            4 + 2 * ("def" in body),
            f"    path = f'{{out}}/{{step}}'\n{body}",
        )
        for id, call, body in [
            (
                "it is archived",
                "shutil.make_archive",
                "    if accelerator.is_main_process:\n        accelerator.save_state(path)\n"
                "        shutil.make_archive(path, 'tar', path)\n",
            ),
            (
                "the one around it is uploaded",
                "upload_folder",
                "    if accelerator.is_main_process:\n        accelerator.save_state(path)\n"
                "        if args.push:\n            upload_folder(folder_path=out)\n",
            ),
            (
                "it is renamed below",
                "os.rename",
                "    if accelerator.is_main_process:\n        accelerator.save_state(path)\n"
                "    if accelerator.is_main_process:\n        os.rename(path, 'last')\n",
            ),
            (
                "saved by a function",
                "os.rename",
                "    def keep(n, to):\n        accelerator.save_state(to)\n    if accelerator.is_main_process:\n"
                "        keep(1, path)\n        os.rename(path, 'last')\n",
            ),
        ]
    ),
]

_, test_refused = tables(NAME, [], REFUSED)
