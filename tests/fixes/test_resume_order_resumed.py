"""resume-order: what its class does, with stand-ins for torch, the loader and the accelerator."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixing import run

from kit.fixes.resume_order import _CODE

Batch = tuple[int, float, float]  # the image, and its two crops


class Torch:
    """torch's random numbers and files, by Python's."""

    def __init__(self) -> None:
        self.random = random.Random(1)
        self.saved: dict[str, object] = {}

    def get_rng_state(self) -> object:
        return self.random.getstate()

    def set_rng_state(self, state: Any) -> None:
        self.random.setstate(state)

    def save(self, state: object, path: str) -> None:
        Path(path).touch()
        self.saved[path] = state

    def load(self, path: str) -> object:
        return self.saved[path]


class Generator:
    """Of the sampler on several processes."""

    def __init__(self) -> None:
        self.random = random.Random(2)

    def get_state(self) -> object:
        return self.random.getstate()

    def set_state(self, state: Any) -> None:
        self.random.setstate(state)


class Buckets:
    """A batch sampler that shuffles its own list, by Python's random numbers, as the last epoch left it."""

    def __init__(self, images: int) -> None:
        self.batches = list(range(images))


class Shard:
    """accelerate's, around another one."""

    def __init__(self, sampler: Buckets) -> None:
        self.batch_sampler = sampler


class Loader:
    """As accelerate's: shuffles as an epoch starts, reads one batch ahead; each is cropped where it is read."""

    def __init__(self, torch: Torch, images: int, generator: Generator | None, buckets: Buckets | None = None) -> None:
        self.torch, self.images, self.synchronized_generator = torch, images, generator
        self.buckets = buckets
        self.batch_sampler = Shard(buckets) if buckets and generator else buckets

    def __len__(self) -> int:
        return self.images

    def read(self) -> Iterator[Batch]:
        order = self.buckets.batches if self.buckets else list(range(self.images))
        draws = random if self.buckets else (self.synchronized_generator or self.torch).random
        draws.shuffle(order)
        for image in order:
            yield image, self.torch.random.random(), random.random()

    def __iter__(self) -> Iterator[Batch]:
        batches = self.read()
        ahead = next(batches)
        for batch in batches:
            yield ahead
            ahead = batch
        yield ahead


class Accelerator:
    """Saves the random states as accelerate does, after its hooks."""

    def __init__(self, torch: Torch, processes: int, process: int = 0) -> None:
        self.torch, self.num_processes, self.process_index = torch, processes, process
        self.hooks: list[Callable[..., None]] = []
        self.printed: list[str] = []
        self.register_save_state_pre_hook = self.register_load_state_pre_hook = self.hooks.append
        self.print = self.printed.append

    def save_state(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.hooks[0]([], [], str(folder))
        self.states = self.torch.get_rng_state(), random.getstate()

    def load_state(self, folder: Path, states: tuple[Any, Any]) -> None:
        self.hooks[1]([], str(folder))
        self.torch.set_rng_state(states[0])
        random.setstate(states[1])


class Run:
    """A training of three epochs of ``images`` batches; from step ``at`` of ``before`` on where that is given."""

    def __init__(
        self,
        folder: Path,
        processes: int,
        before: Run | None = None,
        at: int = 0,
        images: int = 5,
        process: int = 0,
        buckets: bool = False,
    ) -> None:
        random.seed(3 + bool(before))
        self.torch = Torch()
        self.states: dict[int, tuple[Any, Any]] = {}
        accelerator = Accelerator(self.torch, processes, process)
        generator = Generator() if processes > 1 else None
        loader = Loader(self.torch, images, generator, Buckets(images) if buckets else None)
        self.torch.saved = before.torch.saved if before else {}
        batches = run(_CODE, torch=self.torch, random=random, os=os)["ResumableBatches"](accelerator, loader)
        if before:
            accelerator.load_state(folder / str(at), before.states[at])
        self.trained: list[tuple[int, Batch, tuple[float, float]]] = []
        for _ in range(at // images, 3):
            for step, batch in batches:
                noise = self.torch.random.random(), random.random()
                self.trained.append((step, batch, noise))
                at += 1
                accelerator.save_state(folder / str(at))
                self.states[at] = accelerator.states
        self.printed = accelerator.printed


@pytest.mark.parametrize("buckets", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("at", range(1, 15))
def test_a_resumed_run_goes_on_to_the_last_bit(tmp_path: Path, processes: int, at: int, buckets: bool) -> None:
    whole = Run(tmp_path, processes, buckets=buckets)
    again = Run(tmp_path, processes, whole, at, buckets=buckets)
    assert again.trained == whole.trained[at:] and not again.printed


def test_resumed_twice_in_an_epoch(tmp_path: Path) -> None:
    whole = Run(tmp_path, 2)
    again = Run(tmp_path, 2, whole, 6)
    assert Run(tmp_path, 2, again, 8).trained == whole.trained[8:]


def test_without_it_the_epoch_starts_over(tmp_path: Path) -> None:
    """What the stand-ins are worth: as upstream loads a checkpoint, the loader shuffles anew."""
    whole = Run(tmp_path, 1)
    torch = Torch()
    torch.set_rng_state(whole.states[2][0])
    assert [image for image, *_ in Loader(torch, 5, None)] != [batch[0] for _, batch, _ in whole.trained[:5]]


def test_an_uninterrupted_run_stays_what_it_was(tmp_path: Path) -> None:
    random.seed(3)
    torch = Torch()
    loader = Loader(torch, 5, None)
    plain = [
        (step, batch, (torch.random.random(), random.random())) for _ in range(3) for step, batch in enumerate(loader)
    ]
    assert Run(tmp_path, 1).trained == plain


def test_a_process_that_saved_nothing_has_the_order_of_the_first(tmp_path: Path) -> None:
    whole = Run(tmp_path, 2)
    again = Run(tmp_path, 2, whole, 7, process=1)
    images = [[batch[0] for _, batch, _ in each] for each in (again.trained, whole.trained[7:])]
    assert images[0] == images[1]


@pytest.mark.parametrize("change", [{"processes": 3}, {"processes": 1, "images": 4}])
def test_another_shape_starts_the_epoch_over_and_says_so(tmp_path: Path, change: dict[str, int]) -> None:
    whole = Run(tmp_path, 1)
    again = Run(tmp_path, before=whole, at=3, **change)
    assert again.printed == [f"No order of as many batches is saved in {tmp_path / '3'}: its epoch starts over."]
    assert len(again.trained) == 3 * change.get("images", 5)


def test_a_checkpoint_without_an_order_loads(tmp_path: Path) -> None:
    whole = Run(tmp_path, 1)
    (tmp_path / "3" / "batch_order_0.pt").unlink()
    assert len(Run(tmp_path, 1, whole, 3).trained) == 15
