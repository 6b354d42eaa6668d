"""rank-noise: where it prepares, and what is seeded near there."""

from __future__ import annotations

from fixing import case, conflict, satisfied, tables
from test_rank_noise import NAME

RUNNER = "import torch\nfrom accelerate import set_seed\ndef f(options, runner):\n"
TRAINS = "    for x in data:\n        runner.backward(x)\n"
SEEDS, PREPARES = "    set_seed(options.seed)\n", "    data = runner.prepare(data)\n"
ANEW = """\
    # Other noise and timesteps on each process; the first one draws what it would draw alone.
    if options.seed is not None and runner.process_index > 0:
        torch.manual_seed(options.seed + runner.process_index)
"""
LINE = "    a = 1\n"
AGAIN = "    set_seed(options.shown or 0)\n"
OWN = "    torch.manual_seed(runner.process_index)\n"
MANY = "    if fused:\n        for i in range(1, 4):\n            optimizers[i] = runner.prepare(optimizers[i])\n"
FIXED = "    noise = torch.randn(4, generator=torch.Generator().manual_seed(0))\n"
APPLIED = [
    case(
        "noise of a generator of its own, once",
        f"{RUNNER}{SEEDS}{PREPARES}{FIXED}{TRAINS}",
        f"{RUNNER}{SEEDS}{PREPARES}{ANEW}{FIXED}{TRAINS}",
    ),
    case(
        "seeded again below",
        f"{RUNNER}{SEEDS}{PREPARES}{TRAINS}{AGAIN}",
        f"{RUNNER}{SEEDS}{PREPARES}{ANEW}{TRAINS}{AGAIN}",
    ),
    case(
        "seeded by the process, but far below",
        f"{RUNNER}{SEEDS}{PREPARES}{LINE * 8}{OWN}{TRAINS}",
        f"{RUNNER}{SEEDS}{PREPARES}{ANEW}{LINE * 8}{OWN}{TRAINS}",
    ),
    case(
        "told by the process",
        f"{RUNNER}{SEEDS}{PREPARES}    log(str(runner.process_index))\n{TRAINS}",
        f"{RUNNER}{SEEDS}{PREPARES}{ANEW}    log(str(runner.process_index))\n{TRAINS}",
    ),
    case(
        "several optimizers, one after another",
        f"{RUNNER}{SEEDS}{PREPARES}{MANY}{TRAINS}",
        f"{RUNNER}{SEEDS}{PREPARES}{MANY}{ANEW}{TRAINS}",
    ),
    case(
        "prepared above blank lines",
        f"{RUNNER}{SEEDS}{PREPARES}\n\n{TRAINS}",
        f"{RUNNER}{SEEDS}{PREPARES}\n{ANEW}\n\n{TRAINS}",
    ),
]
REFUSED = [
    conflict("prepared last", "it does not prepare what it trains", 4, f"{RUNNER}{SEEDS}{TRAINS}{PREPARES}"),
    satisfied("seeded by the process soon", f"{RUNNER}{SEEDS}{PREPARES}{LINE * 7}{OWN}{TRAINS}"),
    conflict(
        "prepared above the seed", "it sets the seed below where it prepares", 5, f"{RUNNER}{PREPARES}{SEEDS}{TRAINS}"
    ),
    conflict(
        "prepared on its line",
        "it does not prepare what it trains with",
        4,
        f"{RUNNER}{SEEDS.rstrip()}; {PREPARES.strip()}\n    a = 1\n{TRAINS}{AGAIN}",
    ),
]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
