"""Go on with the images that come next, when a SimpleTuner run is resumed."""

from __future__ import annotations

from kit.fixes._table import Put, table

TITLE = "resume with the images that come next"
WHY = """\
SimpleTuner draws a batch's images by their places in a list, which it shuffles as it starts. A checkpoint has that
list, which buckets are left and which one is at hand, but a resumed run reads none of it: its random numbers go on as
they were, and pick other images. Here it reads the list. Where the images are others than at the checkpoint, the run
goes on as upstream's does."""
LINKS = ()
NEEDS = ("self",)

_LISTS = """\
saved, own = previous_state.get("aspect_ratio_bucket_indices", {}), self.metadata_backend.aspect_ratio_bucket_indices
names = {str(bucket): bucket for bucket in own}
as_saved = {str(bucket): sorted(images) for bucket, images in own.items()}
if saved and {name: sorted(images) for name, images in saved.items()} == as_saved:
    for name, images in saved.items():
        own[names[name]][:] = images
    self.buckets = [names[str(bucket)] for bucket in previous_state["buckets"]]
    self.current_bucket = previous_state["current_bucket"]
"""

sites, edits = table(
    Put("MultiAspectSampler.load_states", "if 'seen_images' in previous_state:", _LISTS),
)
