"""`kit fix` over training scripts of other people's repositories: python tests/bench/bench_public.py [NAME…]

Each general fix alone (with what it brings), and all together, on every script of the repositories below that has an
Accelerator or a backward pass; a NAME is a part of `owner/name`. The judge is `judge_ranks.py`: it runs the script as
it was and as the fix made it, on two ranks, among stubs, and knows nothing of the fixes. Besides, a result must
compile, and be left alone by a second run. A repository that cannot be had is skipped, saying so. The exit status is 1
if an edit was wrong.
"""

from __future__ import annotations

import gc
import re
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import judge_ranks

from kit import fixes, git, store
from kit.errors import KitError
from kit.fixes import Outcome
from kit.mend import looks_like, mend, options_for

DEVICE = "npu"  # device-package differs by device
REPOSITORIES = {  # owner/name: commit
    "a-r-r-o-w/finetrainers": "f476c3717da6cbfb1070505a99ee989426b46d9c",
    "adobe-research/custom-diffusion": "7c19c9a7820d07389f5390e09d7b85d702bafd7b",
    "aigc-apps/CogVideoX-Fun": "6c39567168869bc6416cce21a7479fab0d546a2b",
    "Ascend/MindSpeed-MM": "57069cd55a8ab16d5affe379a2e2c5f0a4d962b9",
    "bghira/SimpleTuner": "bc8e6ab7738ce457a2ed8eb2d26cadd91c6442cb",
    "brian6091/Dreambooth": "f500fada55cc36a94bbd071f2b4460f975ff3e45",
    "cloneofsimo/lora": "d84074b3e3496f1cfa8a3f49b8b9972ef463b483",
    "d8ahazard/sd_dreambooth_extension": "4244f6b2cf810a0a4dd83a3534b27d92b82e4c21",
    "ExponentialML/Text-To-Video-Finetuning": "efbd149c4eae5ceba9684e359f5d059396fee46d",
    "fudan-generative-vision/champ": "02e5533dcb7027622943d011e7c6ebbe4e1536ab",
    "fudan-generative-vision/hallo": "8fd7c572a3d43c2a9c1a5473219ce4fc1b6e3ed2",
    "G-U-N/Phased-Consistency-Model": "b127277f641f28ad2459647a05f78133e5b3fd34",
    "guoyww/AnimateDiff": "e92bd5671ba62c0d774a32951453e328018b7c5b",
    "huggingface/peft": "5d602fdbff04c33c1c4de55cda9d4ae1d7cb7e40",
    "IrisRainbowNeko/HCP-Diffusion": "404f0e850f00a0d58681c94810386b4cb5eb4824",
    "kohya-ss/musubi-tuner": "30c658c4f4b0bf05038b3346eff9670259b10fc7",
    "kohya-ss/sd-scripts": "48d368fa557731ad0488c07304dfeba8c07910eb",
    "kvablack/ddpo-pytorch": "1958463f020112c9a7bc85768d296daacc2e1b4b",
    "Kwai-Kolors/Kolors": "0fafa56a76b7acf1e147b153d1e7b8fd65f9055b",
    "luosiallen/latent-consistency-model": "a9ad79587cc8bd1e404ccd1a3056a3da969b2f62",
    "lyuPang/AttnDreamBooth": "3427390d1f73dbcc08b390dfa966efccbbc7090c",
    "magic-research/piecewise-rectified-flow": "87bac762f049d069497e83a76f528f007e9adabd",
    "mihirp1998/AlignProp": "b22918afd53f254f2ba66eb1233d94121aade5fc",
    "mit-han-lab/fastcomposer": "b9304a2e7d09ffe4036ebd8ed5656bb08d6a8ca9",
    "mkshing/svdiff-pytorch": "a78f69e14410c1963318806050a566d262eca9f8",
    "MooreThreads/Moore-AnimateAnyone": "a914ef38aae3733c2f02f29853dd0593372e0cc9",
    "ostris/ai-toolkit": "27a03a91f23eb1b757d5ec2e80ee3e129cfcc350",
    "PixArt-alpha/PixArt-alpha": "cac2fd3b4544cf7620d8fbbf8b19d97ffcb85892",
    "PixArt-alpha/PixArt-sigma": "1ce521afddcc2fab329b35b7374aa86d654e12f7",
    "PKU-YuanGroup/Open-Sora-Plan": "f7fa604f4e3a523d6b973e4c89a5620ed1aff65a",
    "SalesforceAIResearch/DiffusionDPO": "5233e75919f912f3f631958ee4ebb5b5204382d9",
    "segmind/distill-sd": "c1e97a70d141df09e6fe5cc7dbd66e0cbeae3eeb",
    "showlab/Tune-A-Video": "7d4a89a2b90067e8d805ef1287beb4e4adf37e18",
    "tencent-ailab/IP-Adapter": "62e4af9d0c1ac7d5f8dd386a0ccf2211346af1a2",
    "TencentARC/T2I-Adapter": "c408b059c36e3f9ce336b66746bd606edaa5483a",
    "THUDM/CogVideo": "e519eced782c08db81f45e5eb40baa45958087ae",
    "tianweiy/DMD2": "8d8fa55633d47cfb81bbc7a892e7248f9518763f",
    "VinAIResearch/Anti-DreamBooth": "c97e891b8844952a2150160eeb6d73d23f625041",
    "XLabs-AI/x-flux": "47495425dbed499be1e8e5a6e52628b07349cba2",
    "yisol/IDM-VTON": "0d5f3ec2d737487a9bb24e4100936ad254780383",
}
TRAINS = re.compile(rb"\bAccelerator\(|\.backward\(")


@dataclass
class Judged:
    """A script after `kit fix`: fixes applied, refusals with reasons, signs of other faults, what went wrong; and how
    many of the statements that fixes wrote the judge came to."""

    path: str
    applied: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    signs: list[tuple[str, str]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    seen: int = 0
    written: int = 0


def main() -> int:
    start = time.perf_counter()
    named = {name: pinned for name, pinned in REPOSITORIES.items() if any(w in name for w in sys.argv[1:] or [""])}
    every: list[Judged] = []
    print(f"{'repository':42}{'files':>6}{'applied':>8}{'refused':>8}{'looks like':>11}{'run':>10}{'wrong':>6}")
    with (
        ProcessPoolExecutor(2, initializer=gc.set_threshold, initargs=(10_000_000,)) as pool,
        tempfile.TemporaryDirectory(prefix="kit-bench-") as scratch,
    ):
        for name, commit in named.items():
            try:
                found = scripts(name, commit, Path(scratch) / name)
            except KitError as error:
                print(f"{name:42}  skipped: {error}")
                continue
            done = list(pool.map(one, found, found.values()))
            every += done
            print(row(name, done))
            for each in done:
                for fault in each.wrong:
                    print(f"WRONG    {each.path}: {fault}")
            sys.stdout.flush()
    print(row(f"all {len(named)}", every) + f"   {time.perf_counter() - start:.0f} s")
    table("applied, by fix", Counter((fix, "") for each in every for fix in each.applied))
    table("refused, by fix and reason", Counter(pair for each in every for pair in each.refused))
    table("looks like, by fix", Counter(pair for each in every for pair in each.signs))
    return 1 if any(each.wrong for each in every) else 0


def row(name: str, judged: list[Judged]) -> str:
    applied, refused, signs, wrong = (
        sum(len(getattr(each, what)) for each in judged) for what in ("applied", "refused", "signs", "wrong")
    )
    run = f"{sum(each.seen for each in judged)}/{sum(each.written for each in judged)}"
    return f"{name:42}{len(judged):6}{applied:8}{refused:8}{signs:11}{run:>10}{wrong:6}"


def table(title: str, counts: Counter[tuple[str, str]]) -> None:
    print(f"{title}:")
    for (fix, reason), count in sorted(counts.items(), key=lambda each: (-each[1], each[0])):
        print(f"  {count:4}  {fix}" + f": {reason}" * bool(reason))


def scripts(name: str, commit: str, place: Path) -> dict[str, bytes]:
    """The scripts of a repository that train, but for tests, by `owner/name/path`; only its Python files are fetched.
    Raises KitError where it cannot be had."""
    git.run("init", "--quiet", "--bare", "--template=", place)
    (place / "config").write_text("[core]\n\tbare = true\n" + git.partial_clone(f"https://github.com/{name}"))
    git.fetch(place, "--depth=1", "--filter=blob:none", "origin", commit, progress=lambda *done: None)
    entry = store.Entry(place, commit)
    tree = entry.tree.items()
    ids = {path: id for path, (mode, id) in tree if path.endswith(".py") and mode[:3] == "100" and "test" not in path}
    wanted = "".join(f"{id}\n" for id in sorted(set(ids.values()))).encode()
    words = ("--no-write-fetch-head", "--filter=blob:none", "--stdin", "origin")
    git.fetch(place, *words, stdin=wanted, progress=lambda *done: None)
    blobs = entry.blobs(ids.values())
    return {f"{name}/{path}": blobs[id] for path, id in ids.items() if TRAINS.search(blobs[id])}


def one(path: str, content: bytes) -> Judged:
    """Every general fix alone on one script, each result run, then all of them together."""
    found = Judged(path)
    chosen = options_for(fixes.general(), DEVICE)
    try:
        findings, after = mend(content, path, chosen)
    except KitError as error:
        found.refused = [("every fix", str(error).partition("\n")[0].partition(": ")[2])]
        return found
    found.applied = [each.fix for each in findings if each.outcome is Outcome.applied]
    found.refused = [(f.fix, kind(f.reason)) for f in findings if f.outcome is Outcome.conflict]
    found.signs = [(s.fix, kind(str(s))) for s in looks_like(content, after, path, chosen, findings)]
    for name in found.applied:
        alone = mend(content, path, {each: chosen[each] for each in fixes.with_brought([name]) if each in chosen})[1]
        if alone != content:
            verdict = judge_ranks.judged(content, alone)
            found.seen, found.written = found.seen + verdict.seen, found.written + verdict.statements
            found.wrong += [f"{name}: {verdict.fault}"] if verdict.fault else []
    if after != content:
        compile(after, path, "exec", dont_inherit=True)
        if fault := judge_ranks.judged(content, after).fault:
            found.wrong.append(f"all fixes: {fault}")
        if mend(after, path, chosen)[1] != after:
            found.wrong.append("a second run changes it again")
    return found


def kind(reason: str) -> str:
    """A reason without the names of one script."""
    return re.sub(r"`[^`]*`", "`…`", reason)


if __name__ == "__main__":
    sys.exit(main())
