"""oss-device-change: forget the old device's partition when the parameters have moved."""

from __future__ import annotations

from fixing import case, gone, satisfied, tables

NAME = "oss-device-change"

APPLIED = [
    case(
        "as in the library",
        """
        class OSS:
            def refresh_trainable(self):
                self.look()

                # the present device
                self._default_device = list(self._per_device_params.keys())[0]
        """,
        """
        class OSS:
            def refresh_trainable(self):
                self.look()

                if self._default_device != self.param_groups[0]["params"][0].device:
                    self._clear_cache()

                # the present device
                self._default_device = list(self._per_device_params.keys())[0]
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        class OSS:
            def refresh_trainable(self):
                self.look()

                if self._default_device != self.param_groups[0]["params"][0].device:
                    self._clear_cache()

                # the present device
                self._default_device = list(self._per_device_params.keys())[0]
        """,
    ),
    gone(
        "elsewhere",
        """
        class OSS:
            def step(self):
                self._default_device = list(self._per_device_params.keys())[0]
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
