"""What the instrument's events say of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.smoke import watched
from kit.smoke.watched import Forward, Rank, Row

CAPTIONS = {"a": "a dog", "b": "a cat", "c": "a tree", "d": "a hill"}


def rank(*epochs: str, captions: str = "", noise: str = "") -> Rank:
    """A process whose forwards take one image each: "ab" are the images of an epoch, in order. ``captions``: those they
    are given, by the image whose they are; ``noise``: a letter for each draw."""
    images = "".join(epochs)
    numbers = [epoch for epoch, taken in enumerate(epochs, 1) for _ in taken]
    rows = [
        Row(frozenset({image}), frozenset({CAPTIONS[caption]}), frozenset({draw}))
        for image, caption, draw in zip(images, captions or images, noise or map(str, range(len(images))), strict=True)
    ]
    handed = {frozenset({image}): frozenset({caption}) for image, caption in CAPTIONS.items()}
    losses = tuple(float(number).hex() for number in range(len(rows)))
    return Rank(handed, tuple(Forward(number, (row,)) for number, row in zip(numbers, rows, strict=True)), losses)


@pytest.mark.parametrize(
    ("ranks", "good", "said"),
    [
        ([rank("abcd", "dcba")], True, "4 of 4 images once in each of 2 epochs"),
        ([rank("ab", "cd"), rank("cd", "ab")], True, "4 of 4 images once in each of 2 epochs"),
        ([rank("abcd", "a")], True, "4 of 4 images once in each of 2 epochs"),
        ([rank("abcd", "aa")], False, "epoch 2: 1 of 4 images used, 1 times one again"),
        ([rank("ab"), rank("ab")], False, "epoch 1: 2 of 4 images used, 2 times one again"),
        ([rank("abc", "abcd")], False, "epoch 1: 3 of 4 images used, 0 times one again"),
        ([rank("abc"), rank("dab")], True, "epoch 1: padded with 2"),
        ([rank("abc"), rank("aab")], False, "epoch 1: 3 of 4 images used"),
        ([rank()], False, "no image reached the trained model"),
    ],
)
def test_every_image_once_an_epoch(ranks: list[Rank], good: bool, said: str) -> None:
    found, words = watched.coverage(ranks, 4)
    assert (found, said in words) == (good, True), words


def test_epochs_of_a_loader_that_is_started_for_each_batch() -> None:
    ranks = [rank("a", "b", "a", "b"), rank("c", "d", "d", "c")]
    assert not watched.coverage(ranks, 4)[0]
    assert watched.coverage(watched.in_epochs(ranks, 2), 4) == (True, "4 of 4 images once in each of 2 epochs")
    assert not watched.coverage(watched.in_epochs([rank("a", "b", "a", "b"), rank("c", "d", "a", "c")], 2), 4)[0]


def test_an_image_that_is_never_handed_out_is_missed() -> None:
    assert watched.coverage([rank("abcd")], 5) == (False, "4 images were handed out, not 5")


def test_a_row_from_nowhere() -> None:
    unknown = Rank({}, (Forward(1, (Row(frozenset(), frozenset(), frozenset()),)),), ("0x0p+0",))
    assert watched.coverage([unknown], 1) == (False, "some rows come from no known image")
    assert watched.captions([unknown]) == (False, "1 of 1 rows have no caption that is known")
    assert watched.noise([unknown]) == (False, "some step's noise is not known")


@pytest.mark.parametrize(
    ("ranks", "good", "said"),
    [
        ([rank("abcd")], True, "4 rows, each with its own caption"),
        (
            [rank("abcd", captions="abdc")],
            False,
            "2 of 4 rows have the caption of another image: 'a hill' where 'a tree'",
        ),
        ([rank("ab"), rank("cd", captions="cc")], False, "1 of 4 rows"),
    ],
)
def test_each_image_has_its_own_caption(ranks: list[Rank], good: bool, said: str) -> None:
    found, words = watched.captions(ranks)
    assert (found, said in words) == (good, True), words


@pytest.mark.parametrize(
    ("given", "good"),
    [
        ("<s>[INST]a dog[/INST]", True),
        ("<s>[INST]a dog in the rain[/INST]", False),  # which is of another image
        ("<s>[INST]a cat[/INST]", False),
        ("<s>[INST][/INST]", False),
    ],
)
def test_a_caption_may_have_a_chat_template_around_it(given: str, good: bool) -> None:
    images = frozenset({"a"}), frozenset({"b"}), frozenset({"c"})
    handed = dict(zip(images, map(frozenset, (["a dog"], ["a cat"], ["a dog in the rain"])), strict=True))
    row = Row(images[0], frozenset({given}), frozenset())
    assert watched.captions([Rank(handed, (Forward(1, (row,)),), ())])[0] is good


@pytest.mark.parametrize(
    ("ranks", "good", "said"),
    [
        ([rank("ab", noise="xy"), rank("cd", noise="zw")], True, "4 draws, no two ranks' the same"),
        ([rank("ab", noise="xy"), rank("cd", noise="xz")], False, "1 of 3 draws on two ranks"),
        ([rank("ab", noise="xx")], True, "1 draws"),
    ],
)
def test_no_two_ranks_draw_the_same_noise(ranks: list[Rank], good: bool, said: str) -> None:
    found, words = watched.noise(ranks)
    assert (found, said in words) == (good, True), words


def events(tmp_path: Path, rank: int, *lines: dict[str, Any]) -> None:
    (tmp_path / f"run.{rank}").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_events_are_read_rank_by_rank(tmp_path: Path) -> None:
    row = {"images": ["a"], "captions": ["a dog"], "noise": ["n"]}
    for number in range(11):
        events(
            tmp_path,
            number,
            {"event": "engine", "type": "DEEPSPEED", "models": ["DeepSpeedEngine"], "optimizers": []},
            {"event": "epoch", "loader": 1, "epoch": 1},
            {"event": "item", "images": ["a"], "captions": ["a dog"]},
            {"event": "forward", "loader": 1, "epoch": 1, "rows": [row]},
            {"event": "loss", "value": float(number).hex()},
        )
    ranks = watched.read(tmp_path / "run")
    assert [float.fromhex(each.losses[0]) for each in ranks] == list(range(11))
    assert ranks[0].forwards == (Forward(1, (Row(frozenset("a"), frozenset({"a dog"}), frozenset("n")),)),)
    assert watched.order(ranks[:2]) == [[frozenset("a"), frozenset("a")]]
    assert watched.engine(ranks, "deepspeed") == (True, "DEEPSPEED, DeepSpeedEngine")


@pytest.mark.parametrize(
    ("name", "seen", "good"),
    [
        ("deepspeed", {"type": "DEEPSPEED", "models": ["DeepSpeedEngine"], "optimizers": []}, True),
        ("deepspeed", {"type": "MULTI_CPU", "models": ["DistributedDataParallel"], "optimizers": ["AdamW"]}, False),
        ("fsdp", {"type": "FSDP", "models": ["FSDPTransformer"], "optimizers": []}, True),
        ("fsdp", {"type": "MULTI_CPU", "models": ["DistributedDataParallel"], "optimizers": ["AdamW"]}, False),
        ("oss", {"type": "MULTI_CPU", "models": ["ShardedDataParallel"], "optimizers": ["OSS"]}, True),
        ("oss", {"type": "MULTI_CPU", "models": ["DistributedDataParallel"], "optimizers": ["AdamW"]}, False),
    ],
)
def test_what_shards_a_training_says_so(tmp_path: Path, name: str, seen: dict[str, Any], good: bool) -> None:
    """`use_cpu: true` turns DeepSpeed into plain data parallelism, and FSDP on a CPU is ignored, without a word."""
    events(tmp_path, 0, {"event": "engine", **seen})
    assert watched.engine(watched.read(tmp_path / "run"), name)[0] is good


def test_nothing_prepared_is_no_engine(tmp_path: Path) -> None:
    assert watched.engine(watched.read(tmp_path / "run"), "deepspeed") == (False, "nothing was prepared")
