"""Where a run of sdxl_pretrain.py is: saved with its state, and gone on from by --resume.

Written against kohya-ss/sd-scripts 46cf41cc93d5856664a2835da2d92796f9344281 (sdxl_train.py, library/train_util.py) and
accelerate v0.23.0, whose saved state has neither epoch nor step, and random states of the main process alone, without
an NPU's.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

FILE = "progress.json"  # in the folder of a saved state


class Progress:
    """The epochs, batches and steps that are done. Accelerate's save_state and load_state keep it in ``FILE``.

    A run that goes on reads the batches of its epoch anew and passes by those that are done, with the random states
    that epoch began with: so shuffles, augmentations and noise are those of a run that was never interrupted. Where
    workers live on from epoch to epoch (--persistent_data_loader_workers), the order of the images is another.
    """

    def __init__(self, args: Any, accelerator: Any, loader: Any, dataset: Any):
        self.args, self.accelerator, self.loader, self.dataset = args, accelerator, loader, dataset
        self.epoch = self.batch = self.step = 0  # whole epochs that are done, batches of the next one, steps
        self.random: dict[str, Any] = {}  # to go on with: as the epoch began, and as the state was saved
        self.losses: list[float] = []
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: self._save(Path(folder, FILE)))
        accelerator.register_load_state_pre_hook(lambda models, folder: self._load(Path(folder, FILE)))

    def begin(self, epoch: int, recorder: Any) -> None:
        """An epoch begins: at the state the run goes on from, if that is in it. ``recorder`` has the losses."""
        self.epoch, self.recorder = epoch, recorder
        if self.losses:
            recorder.loss_list, recorder.loss_total = self.losses, math.fsum(self.losses)
            self.losses = []
        self._set_random("began" if self.batch else "now")
        self.began = self._random()

    def passes_by(self, number: int) -> bool:
        """Whether the batch of this number, from 0, was done before the state was saved."""
        self.number = number
        if number + 1 == self.batch:
            self._set_random("now")
        if number < self.batch:
            return True
        self.batch, self.random = 0, {}
        return False

    def collect(self, step: int, loss: torch.Tensor) -> None:
        """To be called by every process after ``step`` steps, the last with this loss, before the main process saves
        the state. Does nothing where none is saved."""
        if not self.args.save_state:
            return
        whole = self.number + 1 == len(self.loader)
        losses = list(self.recorder.loss_list)
        losses[self.number : self.number + 1] = [loss.item()]
        mine = json.dumps({"began": None if whole else self.began, "now": self._random()})
        self.collected = {
            "epoch": self.epoch + whole,
            "batch": 0 if whole else self.number + 1,
            "step": step,
            "of": self._of(),
            "losses": losses,
            "random": [json.loads(text) for text in self._from_all(mine)],
        }

    def _of(self) -> dict[str, int]:
        """What the numbers count in."""
        names = "processes", "batches an epoch", "batches a step"
        counts = self.accelerator.num_processes, len(self.loader), self.args.gradient_accumulation_steps
        return dict(zip(names, counts))  # noqa: B905 - Python 3.8 has no `strict`

    def _save(self, file: Path) -> None:
        if self.accelerator.is_main_process:
            file.write_text(json.dumps(self.collected))

    def _load(self, file: Path) -> None:
        """Raises ValueError where nothing is left to train, and where one process would go on for several or several
        for one: the names of the weights differ then."""
        if not file.is_file():
            self.accelerator.print(f"no {file}: the weights are trained on, from step 0")
            return
        saved = json.loads(file.read_text())
        self.epoch, self.batch, self.step = saved["epoch"], saved["batch"], saved["step"]
        if self.step >= self.args.max_train_steps:
            what = f"{file.parent} is at step {self.step} of {self.args.max_train_steps}: nothing is left to train"
            raise ValueError(f"{what}; give more epochs or steps")
        before, now = saved["of"]["processes"], self.accelerator.num_processes
        if before != now and 1 in (before, now):
            raise ValueError(f"{file.parent} was saved with {before} processes, this run has {now}: take as many")
        if saved["of"] == self._of():
            self.random, self.losses = saved["random"][self.accelerator.process_index], saved["losses"]
        else:
            of, batches = self._of(), len(self.loader)
            self.accelerator.print(f"{file}: saved with {saved['of']}, now {of}: the batches to come are others")
            steps = math.ceil(batches / of["batches a step"])
            self.epoch, self.batch = self.step // steps, self.step % steps * of["batches a step"]
            mean = math.fsum(saved["losses"]) / len(saved["losses"])
            self.losses = [mean] * (batches if self.epoch else self.batch)
        for epoch in range(1, self.epoch + 1):  # an epoch's batches are those of the one before, shuffled
            self.dataset.set_current_epoch(epoch)
        self.accelerator.print(f"going on after step {self.step}: in epoch {self.epoch + 1}, after batch {self.batch}")

    def _from_all(self, text: str) -> list[str]:
        """A text of each process, on all, in ASCII. As tensors: not every device's collectives take objects."""
        codes = torch.tensor(list(text.encode()), dtype=torch.int32, device=self.accelerator.device)
        rows = self.accelerator.gather(self.accelerator.pad_across_processes(codes, pad_index=ord(" ")))
        return [bytes(row).decode() for row in rows.view(self.accelerator.num_processes, -1).tolist()]

    def _random(self) -> dict[str, Any]:
        """This process's random states, in words of JSON."""
        name, words, *rest = np.random.get_state()
        streams = {each: stream.get_rng_state() for each, stream in self._streams().items()}
        if self._order() is not None:
            streams["order"] = self._order().get_state()
        states = {each: state.tolist() for each, state in streams.items()}
        return {"python": random.getstate(), "numpy": [name, words.tolist(), *rest], **states}

    def _set_random(self, when: str) -> None:
        if not self.random:
            return
        states = self.random[when]
        version, words, rest = states["python"]
        random.setstate((version, tuple(words), rest))
        np.random.set_state(tuple(states["numpy"]))
        for name, stream in self._streams().items():
            stream.set_rng_state(torch.tensor(states[name], dtype=torch.uint8))
        if self._order() is not None:
            self._order().set_state(torch.tensor(states["order"], dtype=torch.uint8))

    def _streams(self) -> dict[str, Any]:
        """The modules that have PyTorch's random streams here: the CPU's, and the device's where it is another."""
        device = self.accelerator.device.type
        return {"cpu": torch, **({} if device == "cpu" else {device: getattr(torch, device)})}

    def _order(self) -> Any:
        """What several processes shuffle by: a generator of accelerate's loader. One process takes PyTorch's stream."""
        return getattr(self.loader, "synchronized_generator", None)
