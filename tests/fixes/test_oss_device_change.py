"""oss-device-change: forget the old device's partition when the parameters have moved."""

from __future__ import annotations

import pytest
from fixing import Case, Refusal, case, check_applied, check_refused, gone, satisfied

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


@pytest.mark.parametrize("given", APPLIED)
def test_applied(given: Case) -> None:
    check_applied(NAME, given)


@pytest.mark.parametrize("given", REFUSED)
def test_refused(given: Refusal) -> None:
    check_refused(NAME, given)
