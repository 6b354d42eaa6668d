"""sampler-resume: before and after, what it refuses, and which images a resumed sampler has."""

from __future__ import annotations

import types
from typing import Any

import pytest
from fixing import case, gone, run, satisfied, tables

NAME = "sampler-resume"

SAMPLER = """
class MultiAspectSampler:
    def load_states(self, state_path):
        self.buckets = list(self.metadata_backend.aspect_ratio_bucket_indices)
        previous_state = self.state_manager.load_state(state_path)
        self.exhausted_buckets = previous_state.get("exhausted_buckets", [])
        if "seen_images" in previous_state:
            self.metadata_backend.seen_images.update(previous_state["seen_images"])
"""
RESTORED = f"""{SAMPLER.rstrip()}
        saved, own = previous_state.get("aspect_ratio_bucket_indices", {{}}), self.metadata_backend.aspect_ratio_bucket_indices
        names = {{str(bucket): bucket for bucket in own}}
        as_saved = {{str(bucket): sorted(images) for bucket, images in own.items()}}
        if saved and {{name: sorted(images) for name, images in saved.items()}} == as_saved:
            for name, images in saved.items():
                own[names[name]][:] = images
            self.buckets = [names[str(bucket)] for bucket in previous_state["buckets"]]
            self.current_bucket = previous_state["current_bucket"]
"""  # noqa: E501 - as it is written into upstream's file

APPLIED = [
    case("what the sampler reads", SAMPLER, RESTORED),
]

REFUSED = [
    satisfied("the sampler reads it already", RESTORED),
    gone("another sampler", SAMPLER.replace("MultiAspectSampler", "Sampler")),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


STATE = {
    "aspect_ratio_bucket_indices": {"1.0": ["c", "a", "b"], "1.5": ["d"]},
    "buckets": [1.0],
    "exhausted_buckets": [1.5],
    "current_bucket": 0,
    "seen_images": {"d": True},
}


def _resumed(source: str, images: dict[float, list[str]]) -> Any:
    """A sampler of this source that has these images, after it has read STATE."""
    sampler = run(source)["MultiAspectSampler"]()
    sampler.metadata_backend = types.SimpleNamespace(aspect_ratio_bucket_indices=images, seen_images={})
    sampler.state_manager = types.SimpleNamespace(load_state=lambda path: STATE)
    sampler.current_bucket = None
    sampler.load_states("training_state.json")
    return sampler


def test_the_images_are_in_the_order_of_the_checkpoint() -> None:
    before = _resumed(SAMPLER, {1.0: ["a", "b", "c"], 1.5: ["d"]})
    assert before.metadata_backend.aspect_ratio_bucket_indices[1.0] == ["a", "b", "c"]
    assert (before.buckets, before.current_bucket) == ([1.0, 1.5], None)
    after = _resumed(RESTORED, {1.0: ["a", "b", "c"], 1.5: ["d"]})
    assert after.metadata_backend.aspect_ratio_bucket_indices == {1.0: ["c", "a", "b"], 1.5: ["d"]}
    assert (after.buckets, after.exhausted_buckets, after.current_bucket) == ([1.0], [1.5], 0)


@pytest.mark.parametrize("images", [{1.0: ["a", "b", "e"], 1.5: ["d"]}, {1.0: ["a", "b", "c", "d"]}])
def test_other_images_stay_as_they_are(images: dict[float, list[str]]) -> None:
    after = _resumed(RESTORED, {bucket: list(names) for bucket, names in images.items()})
    assert after.metadata_backend.aspect_ratio_bucket_indices == images
    assert (after.buckets, after.current_bucket) == (list(images), None)
