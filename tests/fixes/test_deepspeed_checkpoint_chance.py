"""deepspeed-checkpoint: a save that one process may come to by chance, and the others not."""

from __future__ import annotations

from fixing import tables
from test_deepspeed_checkpoint import NAME, refused

REFUSED = [
    *(
        refused(f"one process comes there: {id}", reason, line, body)
        for id, reason, line, body in [
            (
                "in an except",
                "it stands in an `except`",
                6,
                "    try:\n        train()\n    except RuntimeError:\n        if accelerator.is_main_process:\n"
                "            accelerator.save_state(1)\n        raise\n",
            ),
            (
                "in an except of the gate's own",
                "it stands in an `except`",
                3,
                "    if accelerator.is_main_process:\n        try:\n            upload()\n        except OSError:\n"
                "            accelerator.save_state(1)\n",
            ),
            (
                "in a loop that tries again",
                "it stands in a loop that tries again",
                3,
                "    if accelerator.is_main_process:\n        for _ in range(3):\n            try:\n"
                "                accelerator.save_state(1)\n                break\n"
                "            except OSError:\n                pass\n",
            ),
            (
                "in a loop that goes on until it went well",
                "it stands in a loop that tries again",
                3,
                "    if accelerator.is_main_process:\n        done = False\n        while not done:\n            try:\n"
                "                accelerator.save_state(1)\n                done = True\n"
                "            except OSError:\n                pass\n",
            ),
            (
                "in a function that tries again",
                "it stands in a loop that tries again",
                10,
                "    def keep():\n        while True:\n            try:\n"
                "                return accelerator.save_state(1)\n            except OSError:\n"
                "                pass\n    for _ in range(3):\n        if accelerator.is_main_process:\n"
                "            keep()\n",
            ),
            (
                "in a finally",
                "it stands in a `finally`",
                6,
                "    try:\n        train()\n    finally:\n        if accelerator.is_main_process:\n"
                "            accelerator.save_state(1)\n",
            ),
            (
                "in a function that a signal calls",
                "it stands in what `signal.signal` calls",
                4,
                "    def ended(number, frame):\n        if accelerator.is_main_process:\n"
                "            accelerator.save_state(1)\n    signal.signal(signal.SIGTERM, ended)\n",
            ),
            (
                "in a function that an except calls",
                "it stands in an `except`",
                4,
                "    def keep():\n        if accelerator.is_main_process:\n            accelerator.save_state(1)\n"
                "    try:\n        train()\n    except RuntimeError:\n        keep()\n",
            ),
        ]
    ),
]

_, test_refused = tables(NAME, [], REFUSED)
