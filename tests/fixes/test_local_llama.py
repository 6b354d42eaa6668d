"""local-llama: before and after, and what it refuses."""

from __future__ import annotations

from fixing import case, conflict, gone, satisfied, tables

NAME = "local-llama"

HUB = '"terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct"'

APPLIED = [
    case(
        "in the table of encoders",
        f"""
        import os

        class HiDream:
            ENCODERS = {{
                "text_encoder_4": {{
                    "path": {HUB},
                    # "level": "int4",
                }},
            }}
        """,
        f"""
        import os

        class HiDream:
            ENCODERS = {{
                "text_encoder_4": {{
                    "path": os.environ.get("HIDREAM_LLAMA", {HUB}),
                    # "level": "int4",
                }},
            }}
        """,
    ),
]

REFUSED = [
    satisfied("so already", f'import os\npath = os.environ.get("HIDREAM_LLAMA", {HUB})\n'),
    gone("another repository", 'import os\npath = "meta-llama/Llama-3.1-8B-Instruct"\n'),
    conflict("no os", "`os` is not bound", 1, f"path = {HUB}\n"),
    conflict("in a default", "it is in the head of a function", 2, f"import os\ndef f(path={HUB}):\n    pass\n"),
]


test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
