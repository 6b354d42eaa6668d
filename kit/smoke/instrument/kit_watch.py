"""Watches a training script from outside: which image trains with which caption and noise, where, to which loss.

Run in each process before the script (`runpy.run_path`). $KIT_WATCH names a file; the process writes JSON lines to
`<file>.<rank>`. $KIT_WATCH_MODE=image also makes random numbers and the order of images depend on the image and the
epoch alone (see kit_draws); with $KIT_WATCH_MODE=engine only the first event is looked for. A process without a seed
has the random numbers of its rank. It hooks what torch, accelerate, transformers and diffusers' posterior hand out, and
knows no script. Events:

    {"event": "engine", "type": …, "models": [class, …], "optimizers": [class, …]}   what accelerate prepared
    {"event": "epoch", "loader": k, "epoch": n}                                      the nth start of a loader
    {"event": "item", "images": […], "captions": […]}                                handed out together, as one row
    {"event": "forward", "loader": k, "epoch": n, "rows": [{"images", "captions", "noise"}, …]}   the trained model
    {"event": "loss", "value": hex}                                                  what is sent backward
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import kit_draws
import kit_kept
import kit_rows
import torch
from kit_rows import NOTHING, Rows, digest

MODE = os.environ.get("KIT_WATCH_MODE", "")
OUT = Path("{}.{}".format(os.environ["KIT_WATCH"], os.environ.get("RANK", "0"))).open("w", 1, "utf-8")  # noqa: SIM115
atexit.register(OUT.close)


def say(event: str, **what: Any) -> None:
    OUT.write(json.dumps({"event": event, **what}) + "\n")


class State:
    """What the process is at: the loader that last handed out a batch, that batch, and how deep in modules it is."""

    loader, epoch, depth, inside, sending = 0, 0, 0, 0, 0
    batch: kit_draws.Batch | None = None


NUMBERS: dict[int, int] = {}  # of loaders, by id
STARTS: dict[int, int] = {}  # how often they were started
KEPT: list[Any] = []  # loaders and samplers that were started, so that no other gets their id


# ---- What a loader hands out ----


def of_kind(sources: Any, kind: str) -> Any:
    """The sources of one kind, without its name."""
    return {each[len(kind) + 1 :] for each in sources if each.startswith(kind + " ")}


def key_of(sources: Any) -> str:
    """One string for the images that a row is made from."""
    return " ".join(sorted(of_kind(sources, "image")))


def images_of(batch: Any) -> list[torch.Tensor]:
    """The tensors of a batch that hold images or their latents: floating, three dimensions or more a row."""
    return [each for each in kit_rows._tensors(batch) if each.is_floating_point() and each.dim() >= 4]


def strings_of(batch: Any, count: int) -> list[list[str]]:
    """For each of ``count`` rows, the strings that lists of as many strings in the batch have for it."""
    values = (
        list(batch.values()) if isinstance(batch, dict) else list(batch) if isinstance(batch, (list, tuple)) else []
    )
    lists = [value for value in values if isinstance(value, (list, tuple)) and len(value) == count]
    lists = [value for value in lists if all(isinstance(each, str) for each in value)]
    return [[value[row] for value in lists] for row in range(count)]


def handed_out(batch: Any, loader: int, epoch: int) -> None:
    """Give the rows of a batch their sources, and say which images and captions came together."""
    pictures = images_of(batch)
    if not pictures:
        return
    count = pictures[0].size(0)
    names: list[Any] = [NOTHING] * count
    for picture in pictures:
        known = kit_rows.sources(picture, picture.size(0))
        if not all(known):
            known = [frozenset({"image " + digest(row)}) for row in picture]
            kit_rows.mark(picture, Rows(0, tuple(known)))
        if picture.size(0) == count:
            names = [old | new for old, new in zip(names, known)]
    captions = [set(each) for each in strings_of(batch, count)]
    for tensor in kit_rows._tensors(batch):
        if not tensor.is_floating_point():
            for row, found in enumerate(kit_rows.sources(tensor, count)):
                captions[row] |= of_kind(found, "caption")
    for name, found in zip(names, captions):
        say("item", images=sorted(of_kind(name, "image")), captions=sorted(found))
    State.loader, State.epoch = loader, epoch
    State.batch = kit_draws.Batch(tuple(map(key_of, names)), epoch)


def watched(loaded: Any) -> Any:
    """A loader's __iter__ that says what it hands out; those it is made of, which read ahead, keep quiet meanwhile."""

    @functools.wraps(loaded)
    def iterate(self: Any) -> Iterator[Any]:
        outermost = not State.inside
        KEPT.append(self)
        number = NUMBERS.setdefault(id(self), len(NUMBERS) + 1)
        if outermost:
            STARTS[number] = STARTS.get(number, 0) + 1
            say("epoch", loader=number, epoch=STARTS[number])
        epoch = STARTS.get(number, 0)
        State.inside += 1
        try:
            batches = iter(loaded(self))
        finally:
            State.inside -= 1
        while True:
            State.inside += 1
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                State.inside -= 1
            if outermost:
                handed_out(batch, number, epoch)
            yield batch

    return iterate


def alone(method: Any) -> Any:
    """DataLoader.__init__ without processes that read ahead, into which nothing here reaches."""

    @functools.wraps(method)
    def build(self: Any, *args: Any, **kwargs: Any) -> None:
        for key in ("num_workers", "prefetch_factor", "persistent_workers", "multiprocessing_context"):
            kwargs.pop(key, None)
        method(self, *args[:5], **kwargs)

    return build


def ordered(sampler: Any) -> Iterator[int]:
    """RandomSampler.__iter__: an order that depends on how often the sampler was started, and on nothing else."""
    KEPT.append(sampler)
    times = sum(each is sampler for each in KEPT)
    generator = torch.Generator().manual_seed(1000 + times)
    yield from torch.randperm(len(sampler.data_source), generator=generator).tolist()


# ---- What the script computes ----


TOKENS: dict[tuple[int, ...], str] = {}  # the text of a list of tokens that no tensor was made of yet


def call(name: str, func: Any, args: Any, kwargs: Any) -> Any:
    if name not in kit_draws.RANDOM:
        result = func(*args, **kwargs)
        if name == "tensor" and TOKENS and result.dim() == 2 and not result.is_floating_point():
            texts = [TOKENS.get(tuple(row)) for row in result.tolist()]
            if all(texts):
                kit_rows.mark(result, Rows(0, tuple(frozenset({f"caption {text}"}) for text in texts)))
        return result
    result = kit_draws.by_image(State.batch, name, func, args, kwargs) if MODE == "image" else func(*args, **kwargs)
    rows = len(State.batch.images) if State.batch else 0
    if isinstance(result, torch.Tensor) and result.is_floating_point() and result.dim() >= 3 and result.size(0) == rows:
        kit_rows.mark(result, Rows(0, tuple(frozenset({"noise " + digest(row)}) for row in result)))
    return result


def tokenized(method: Any) -> Any:
    """A tokenizer's __call__ whose result knows the captions of its rows."""

    @functools.wraps(method)
    def encode(self: Any, text: Any = None, *args: Any, **kwargs: Any) -> Any:
        made = method(self, text, *args, **kwargs)
        texts = [text] if isinstance(text, str) else list(text) if isinstance(text, (list, tuple)) else []
        if texts and all(isinstance(each, str) for each in texts):
            tokens = made["input_ids"]
            if isinstance(tokens, list) and len(tokens) == len(texts):  # a processor makes the tensor
                TOKENS.update((tuple(row), each) for row, each in zip(tokens, texts) if isinstance(row, list))
            for tensor in kit_rows._tensors(dict(made)):
                if tensor.dim() and tensor.size(0) == len(texts):
                    kit_rows.mark(tensor, Rows(0, tuple(frozenset({"caption " + each}) for each in texts)))
        return made

    return encode


def called(method: Any) -> Any:
    """Module.__call__ that tells the outermost call of a model that trains: its result has a gradient, be it that of
    weights that are not the model's own (LyCORIS)."""

    @functools.wraps(method)
    def run(self: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        outermost = not State.depth and not State.sending  # what is computed again while sending backward is no call
        State.depth += 1
        try:
            result = method(self, *args, **kwargs)
        finally:
            State.depth -= 1
        if outermost and any(each.requires_grad for each in kit_rows._tensors(result)):
            forward(args, kwargs)
        return result

    return run


def parts_of(value: Any) -> Iterator[list[Any]]:
    """The sources row by row of each tensor that a call is given; a list with a tensor a sample is one, too."""
    if isinstance(value, torch.Tensor):
        rows = kit_rows.of(value)
        if rows is not None:
            yield list(rows.sources)
    elif isinstance(value, (list, tuple)):
        known = [kit_rows.of(each) if isinstance(each, torch.Tensor) else None for each in value]
        if known and all(rows is not None and len(rows.sources) == 1 for rows in known):
            yield [rows.sources[0] for rows in known]
        else:
            for each in value:
                yield from parts_of(each)
    elif isinstance(value, dict):
        yield from parts_of(list(value.values()))


def forward(args: Any, kwargs: Any) -> None:
    """Say from what each row of the trained model's input was made; what has one row is for all of them."""
    parts = list(parts_of([list(args), kwargs]))
    rows: list[Any] = [NOTHING] * max(map(len, parts), default=1)
    for part in parts:
        for number in range(len(rows) if len(part) == 1 else len(part)):
            rows[number] = rows[number] | part[number % len(part)]
    kinds = {"images": "image", "captions": "caption", "noise": "noise"}
    split = [{kind: sorted(of_kind(row, word)) for kind, word in kinds.items()} for row in rows]
    say("forward", loader=State.loader, epoch=State.epoch, rows=split)


def sampled(method: Any) -> Any:
    """The posterior's sample(): drawn for the images its rows are of, which need not be those of the batch at hand."""

    @functools.wraps(method)
    def sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        kept, count = State.batch, self.mean.size(0)
        names = [key_of(row) for row in kit_rows.sources(self.mean, count)]
        if kept is not None and all(names):
            State.batch = kit_draws.Batch(tuple(names), kept.epoch, "sample")
        try:
            return method(self, *args, **kwargs)
        finally:
            State.batch = kept

    return sample


def backward(method: Any) -> Any:
    @functools.wraps(method)
    def send(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.dim() == 0 and not State.sending:
            say("loss", value=float(self.detach()).hex())
        State.sending += 1  # torch calls it anew for its function mode
        try:
            return method(self, *args, **kwargs)
        finally:
            State.sending -= 1

    return send


# ---- Hooks ----


def hook_accelerate() -> None:
    try:
        from accelerate import Accelerator, data_loader
    except ImportError:
        return
    for name in ("DataLoaderShard", "DataLoaderDispatcher") if MODE != "engine" else ():
        loader = getattr(data_loader, name)
        loader.__iter__ = watched(loader.__iter__)
    prepare = Accelerator.prepare

    @functools.wraps(prepare)
    def prepared(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = prepare(self, *args, **kwargs)
        everything = made if isinstance(made, tuple) else (made,)
        models = [type(each).__name__ for each in everything if isinstance(each, torch.nn.Module)]
        steppers = [
            type(getattr(each, "optimizer", each)).__name__ for each in everything if hasattr(each, "zero_grad")
        ]
        say("engine", type=str(self.distributed_type).split(".")[-1], models=models, optimizers=steppers)
        return made

    Accelerator.prepare = prepared


def hook_posterior() -> None:
    try:
        from diffusers.models import AutoencoderKL
    except ImportError:
        return
    home = sys.modules[AutoencoderKL.__module__]
    posterior = home.DiagonalGaussianDistribution
    posterior.sample = sampled(posterior.sample)


def hook() -> None:
    hook_accelerate()
    if MODE == "engine":
        return
    loader = torch.utils.data.DataLoader
    loader.__init__ = alone(loader.__init__)
    loader.__iter__ = watched(loader.__iter__)
    for seed in (random.seed, torch.manual_seed):  # which a fork would have as its parent
        seed(int(os.environ.get("RANK", "0")))
    if MODE == "image":
        torch.utils.data.RandomSampler.__iter__ = ordered
    try:
        from transformers import PreTrainedTokenizerBase
    except ImportError:
        pass
    else:
        PreTrainedTokenizerBase.__call__ = tokenized(PreTrainedTokenizerBase.__call__)
    hook_posterior()
    kept = Path(os.environ["KIT_WATCH"]).parent / "kept"
    torch.save, torch.load = kit_kept.saved(torch.save, kept), kit_kept.loaded(torch.load, kept)
    torch.nn.Module.__call__ = called(torch.nn.Module.__call__)
    torch.Tensor.backward = backward(torch.Tensor.backward)
    kit_rows.follow(call)


hook()
