"""rank-noise: what has a size that is drawn cannot be gathered where each process draws its own."""

from __future__ import annotations

from fixing import conflict, tables, unlike
from test_rank_noise import NAME, NEW, anew

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
APPLIED = [
    unlike(f"no size by chance: {line}", anew(line), anew(line).replace("    # We need", f"{NEW[1:]}\n    # We need"))
    for line in (
        f"{SIZED}; x = accelerator.gather(torch.randn((4, h)).mean())",
        "h = random.choice(sizes); x = accelerator.gather(torch.randn((4, h)))",
        f"{SIZED}; t = torch.full((4,), h); x = accelerator.gather(t)",
        "if random.random() < 0.5: accelerator.gather(batch)",
    )
]

test_applied, test_refused = tables(NAME, APPLIED, REFUSED)
