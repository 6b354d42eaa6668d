"""device-choice: generate images on the device there is."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "device-choice"

APPLIED = [
    case(
        "in a function",
        """
        import torch


        def main(args):
            # choose a device
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")  # not "mps"
            go(device)
        """,
        """
        import torch


        def main(args):
            # choose a device
            from library.device import best_device

            device = best_device()
            go(device)
        """,
    ),
    case(
        "at the top",
        """
        import torch

        if __name__ == "__main__":
            steps = 50

            DEVICE = "cuda"
            DTYPE = torch.float16
        """,
        """
        import torch

        if __name__ == "__main__":
            steps = 50

            from library.device import best_device

            DEVICE = best_device()
            DTYPE = torch.float16
        """,
    ),
]

REFUSED = [
    satisfied(
        "there",
        """
        import torch


        def main(args):
            # choose a device
            from library.device import best_device

            device = best_device()
            go(device)
        """,
    ),
    gone(
        "given",
        """
        import torch


        def main(args):
            device = torch.device(args.device)
        """,
    ),
    conflict(
        "no torch",
        "`torch` is not bound",
        2,
        """
        def main(args):
            device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        """,
    ),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
