"""rank-noise: what has a size that is drawn cannot be gathered where each process draws its own."""

from __future__ import annotations

import ast

import pytest
from fixing import case, conflict, tables, unlike
from test_rank_noise import NAME, NEW, anew, script

from kit import fixes

SIZED = "h = int(torch.randint(4, 9, (1,)))"
COLLATE = "def collate(examples):\n    size = random.choice(sizes)\n    x = interpolate(examples, size)\n    return x\n"
REFUSED = [
    conflict(
        f"a size by chance: {gathered}",
        f"`accelerator.gather(…)` (line 24) takes what has a size drawn by chance (`{by}`)",
        15,
        anew(f"{drawn}; x = accelerator.gather({gathered})").replace(
            "; x =", "\n            p = unet(n)\n            x ="
        ),
    )
    for by, drawn, gathered in (
        ("h", f"{SIZED}; n = torch.randn((4, h))", "p"),
        ("h", f"{SIZED}; n = batch[:, :h]", "p.detach()"),
        ("keep", "keep = torch.rand(4) < 0.5; n = batch[keep]", "p"),
        ("keep", "keep = torch.rand(4) < 0.5; n = batch[:, keep]", "p"),
        ("h", f"{SIZED}; n = torch.randn((4, h))", "mse_loss(p, n, reduction='none')"),
    )
]
REFUSED += [
    conflict(
        "a batch's size by chance",
        "takes what has a size drawn by chance (`size`)",
        15 + 4,
        COLLATE + anew("x = accelerator.gather(unet(batch))"),
    )
]
LOSS = f"{SIZED}; loss = f(batch[:h])"
REFUSED += [
    conflict(
        f"a loss that is no number yet: {gathered}",
        "takes what has a size drawn by chance (`h`)",
        15,
        anew(f"{LOSS}; x = accelerator.gather({gathered}); loss = loss.mean(); accelerator.backward(loss)"),
    )
    for gathered in ("loss", "loss.repeat(4)")
]
APPLIED = [
    unlike(f"no size by chance: {line}", anew(line), anew(line).replace("    # We need", f"{NEW[1:]}\n    # We need"))
    for line in (
        f"{SIZED}; x = accelerator.gather(torch.randn((4, h)).mean())",
        "h = random.choice(sizes); x = accelerator.gather(torch.randn((4, h)))",
        f"{SIZED}; t = torch.full((4,), h); x = accelerator.gather(t)",
        "if random.random() < 0.5: accelerator.gather(batch)",
        f"{SIZED}; n = batch[:h]; n = accelerator.pad_across_processes(n); x = accelerator.gather(n)",
        f"{SIZED}; x = accelerator.gather(accelerator.pad_across_processes(batch[:h]))",
        f"{LOSS}; x = accelerator.gather(loss.repeat(4)); accelerator.backward(loss)",
        f"{LOSS}; loss = loss.mean(); x = accelerator.gather(loss); accelerator.backward(loss)",
        "loss = f(torch.randn_like(batch).float())\n            if torch.isnan(loss): continue",
    )
]

STARRED = "unet, loader = accelerator.prepare(*made)"
APPLIED += [case("prepared with others at once", script(STARRED), script(STARRED, NEW))]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)


TRAINER = """\
from accelerate.utils import set_seed
class Trainer:
    def __init__(self):
        set_seed(1)
        self.loader = self.accelerator.prepare(self.loader)
    def step(self, batch):
        return self.model(batch, {drawn})
    def train(self):
        for batch in self.loader:
            self.accelerator.backward(self.step(batch))
"""


@pytest.mark.parametrize(
    ("drawn", "lines"),
    [("torch.randn_like(batch)", [4]), ("np.random.randn(4)", []), ("random.randint(0, 4)", []), ("1", [])],
)
def test_noise_that_a_method_draws_is_seen(drawn: str, lines: list[int]) -> None:
    signs = fixes.load(NAME).looks_like(ast.parse(TRAINER.format(drawn=drawn)), {})  # type: ignore[attr-defined]
    assert [sign.line for sign in signs] == lines
