"""Every recipe with a network upstream, on every device it supports, prepared from the real thing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kit import planning, recipes, series, store, workspace
from kit.commands import refresh
from kit.errors import KitError
from kit.paths import TreePath
from kit.recipe import Recipe, Upstream

GUARDED = dict.fromkeys(("deepspeed-checkpoint", "weights-pop"), "satisfied")  # by #11737

# What comes of each fix at the pin.
OUTCOMES = {
    "hidream": {step.id: "applied" for step in recipes.load("hidream").fix} | GUARDED,
    "qwen-image": {step.id: "applied" for step in recipes.load("qwen-image").fix},
    "flux-kontext": {step.id: "applied" for step in recipes.load("flux-kontext").fix} | GUARDED,
    "sd3": {
        "deepspeed-checkpoint": "applied",
        "weights-pop": "applied",
        "unwrap-save-hook": "satisfied",
        "checkpoint-rotation": "applied",
        "sample-caches": "applied",
        "rank-noise": "applied",
        "stop-at-max-steps": "applied",
        "validation-dtype": "applied",
        "offline-lora": "applied",
        "resume-order": "applied",
        "progress-print": "applied",
        "offline-model-card": "satisfied",
    },
    "flux": {step.id: "applied" for step in recipes.load("flux").fix},
    "sd-lora": {
        "device-package": "applied",
        "lora-layers-device": "applied",
        "resume-order": "applied",
        "fp16-guard": "applied",
        "grad-scaler": "applied",
    },
    "sdxl": {step.id: "applied" for step in recipes.load("sdxl").fix},
    "hidream-lokr": dict.fromkeys(
        (
            *("pin-memory-guard", "float32-rope", "ema-device", "ema-pin-memory", "accelerator-cache"),
            *("accelerator-cache-block-swap", "accelerator-quantise", "quoted-false", "local-llama", "sampler-resume"),
            *("rank-state", "shared-split", "lycoris-resume", "lycoris-bare-model", "lycoris-processes"),
            "train-sh-status",
        ),
        "applied",
    ),
}
# 1/100 of a naive clone of diffusers, which was 378 MB; 1/10 of one of SimpleTuner, which is 48 MB.
COLD_BYTES = {"diffusers": 3_780_000, "simpletuner": 4_800_000}

EXTRAS = {name: [step.id for step in recipes.load(name).fix if step.extra] for name in recipes.names()}
RECIPES = {name: recipes.load(name).having(extras) for name, extras in EXTRAS.items()}
NETWORK = [name for name, found in RECIPES.items() if any(up.url.startswith("https://") for up in found.upstream)]
DEVICES = [(name, device) for name in NETWORK for device in RECIPES[name].devices]
UPSTREAMS = [(name, up.name) for name in NETWORK for up in RECIPES[name].upstream]
FIXED = [(name, up) for name, up in UPSTREAMS if any(step.upstream == up for step in RECIPES[name].fix)]
PIECES = [(name, device, up) for name, device in DEVICES for fixed, up in FIXED if fixed == name]

DIFFUSERS = "https://github.com/huggingface/diffusers"
BEFORE_THE_PIN = (
    "5ce4814af1de6d2dc2cc67a46d3862ce62261e2b"  # d72184e^: before "add ds support to lora hidream" (#11737)
)


def upstream_of(name: str, upstream: str) -> Upstream:
    return next(up for up in RECIPES[name].upstream if up.name == upstream)


@dataclass(frozen=True)
class Prepared:
    """A workspace that `kit prepare` made, and its report."""

    place: Path
    report: dict[str, Any]


@pytest.fixture
def prepared(
    reach: Callable[[str], None], once: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Prepared]:
    """Prepare a recipe for a device, once, as the console script does."""

    def make(name: str, device: str) -> Prepared:
        place = tmp_path_factory.mktemp("made") / f"{name}-{device}"
        extras = [word for extra in EXTRAS[name] for word in ("--with", extra)]
        done = kit("prepare", name, "--device", device, place, "--json", *extras)
        assert done.returncode == 0, done.stderr
        return Prepared(place, json.loads(done.stdout))

    def get(name: str, device: str) -> Prepared:
        for up in RECIPES[name].upstream:
            reach(up.url)
        return once((name, device), lambda: make(name, device))  # type: ignore[no-any-return]

    return get


def kit(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`kit` in a process of its own; the last line of stderr says whether it loaded libcst."""
    code = (
        "import atexit, sys; from kit.cli import main\n"
        "atexit.register(lambda: print('libcst' in sys.modules, file=sys.stderr))\n"
        "sys.argv[0] = 'kit'; main()"
    )
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


def git(*arguments: str | Path, at: Path, environment: Mapping[str, str] | None = None) -> str:
    command = ["git", "-C", str(at), *map(str, arguments)]
    done = subprocess.run(command, env=environment or dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


def files_at(found: Recipe, upstream: Upstream) -> dict[TreePath, bytes]:
    """The files the recipe's fixes are about, at the pin of ``upstream``."""
    entry = store.ensure(upstream, found.path.parent)
    return entry.files({path for device in found.devices for path in found.sources(upstream.name, device)})


def applied(name: str, upstream: str) -> list[str]:
    """The fixes that change the upstream, in order."""
    steps = (step for step in RECIPES[name].fix if step.upstream == upstream)
    return [step.id for step in steps if OUTCOMES[name][step.id] == "applied"]


def outcomes(steps: list[series.Step]) -> dict[str, str]:
    return {step.fix.id: str(step.outcome) for step in steps}


def test_there_is_something_to_test() -> None:
    assert NETWORK
    assert set(NETWORK) == set(OUTCOMES)


@pytest.mark.parametrize(("name", "device"), DEVICES)
def test_prepare(name: str, device: str, prepared: Callable[[str, str], Prepared]) -> None:
    """The outcomes are the expected ones, by the committed patches alone; what a fix changed is what was committed."""
    report = prepared(name, device).report
    fixes = [fix for up in report["upstreams"].values() for fix in up["fixes"]]
    assert {fix["id"]: fix["outcome"] for fix in fixes} == OUTCOMES[name]
    how = {(file["outcome"], file["how"]) for fix in fixes for file in fix["files"]}
    assert how <= {("applied", "patch"), ("satisfied", "check")}
    for up, part in report["upstreams"].items():
        repository = prepared(name, device).place / up
        overlay = ["overlay"] * bool(RECIPES[name].overlays(up, device))
        subjects = git("log", "--reverse", "--format=%s", f"{part['pin']}..HEAD", at=repository).splitlines()
        assert [subject.partition(":")[0] for subject in subjects] == applied(name, up) + overlay
        assert git("rev-parse", "HEAD", at=repository) == part["commit"]
        assert git("status", "--porcelain", at=repository) == ""


@pytest.mark.parametrize(("name", "device"), DEVICES)
def test_verify(name: str, device: str, prepared: Callable[[str, str], Prepared]) -> None:
    done = kit("verify", prepared(name, device).place)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "device"), DEVICES)
def test_the_fast_path_does_not_import_libcst(
    name: str, device: str, prepared: Callable[[str, str], Prepared], tmp_path: Path
) -> None:
    prepared(name, device)
    done = kit("prepare", name, "--device", device, "--offline", tmp_path / "again")
    assert (done.returncode, done.stderr) == (0, "False\n")


def test_the_codemods_do_import_libcst(prepared: Callable[[str, str], Prepared]) -> None:
    """Red: the question above can be answered with yes."""
    name, device = DEVICES[0]
    prepared(name, device)
    assert kit("refresh", name, "--check").stderr == "True\n"


@pytest.mark.parametrize(("name", "device", "upstream"), PIECES)
def test_patches_and_codemods_give_the_same_bytes(
    name: str, device: str, upstream: str, reach: Callable[[str], None]
) -> None:
    found, up = RECIPES[name], upstream_of(name, upstream)
    reach(up.url)
    files, profile = files_at(found, up), found.device(device)
    patches = series.load_patches(found, upstream)
    by_patch, one = series.apply(found, upstream, profile, files, patches)
    by_codemod, other = series.apply(found, upstream, profile, files, patches, generating=True)
    assert one == other
    assert [step.changes for step in by_patch] == [step.changes for step in by_codemod]
    assert outcomes(by_patch) == outcomes(by_codemod)
    changed = [step for step in by_patch if step.changes]
    assert changed
    for steps, how in ((by_patch, "patch"), (by_codemod, "codemod")):
        made = [step for step in steps if how == "patch" or step.fix.module]
        assert {file.how for step in made for file in step.outcomes if file.path in step.changes} == {how}


@pytest.mark.parametrize(("name", "device"), DEVICES)
def test_patches_and_codemods_give_the_same_commits(
    name: str,
    device: str,
    prepared: Callable[[str, str], Prepared],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = prepared(name, device)
    found, apply = RECIPES[name], series.apply
    calls = []

    def codemods_only(*arguments: Any) -> Any:
        calls.append(arguments[1])
        return apply(*arguments, generating=True)

    monkeypatch.setattr(series, "apply", codemods_only)
    profile = found.device(device)
    plan = planning.plan(found, profile, planning.cluster_of(found, profile), offline=True)
    locked, _, _ = workspace.prepare(plan, tmp_path / "by-codemod")
    assert calls == [up.name for up in found.upstream]
    for up, entry in locked.upstreams.items():
        assert entry.commit == made.report["upstreams"][up]["commit"]
        assert entry.tree == made.report["upstreams"][up]["tree"]


@pytest.mark.parametrize("name", NETWORK)
def test_refresh_would_change_nothing(name: str, prepared: Callable[[str, str], Prepared]) -> None:
    prepared(name, RECIPES[name].devices[0])
    done = kit("refresh", name, "--check", "--offline")
    assert (done.returncode, done.stdout) == (0, "every patch is up to date\n")


@pytest.mark.parametrize(("name", "upstream"), FIXED)
def test_every_fix_that_applies_has_a_patch(name: str, upstream: str, reach: Callable[[str], None]) -> None:
    found, up = RECIPES[name], upstream_of(name, upstream)
    reach(up.url)
    wanted = refresh.generate(found, up)
    assert wanted == series.load_patches(found, upstream)
    assert [re.sub(r"^\d+-|(@\w+)?\.patch$", "", patch) for patch in sorted(wanted)] == applied(name, upstream)


@pytest.mark.parametrize(("name", "device", "upstream"), PIECES)
def test_git_am_makes_the_same_trees(
    name: str,
    device: str,
    upstream: str,
    prepared: Callable[[str, str], Prepared],
    real_environment: Mapping[str, str],
    tmp_path: Path,
) -> None:
    """The committed patches through git itself: after each, the same tree and the same message as kit's commit."""
    found, up = RECIPES[name], upstream_of(name, upstream)
    made = prepared(name, device)
    git("init", "--quiet", ".", at=tmp_path)
    git("remote", "add", "origin", up.url, at=tmp_path)
    fetch = ("fetch", "--quiet", "--depth=1", "--filter=blob:none", "origin", up.pin)
    git(*fetch, at=tmp_path, environment=real_environment)
    git("sparse-checkout", "set", *up.sparse, at=tmp_path, environment=real_environment)
    git("checkout", "--quiet", up.pin, at=tmp_path, environment=real_environment)
    folder = found.root / "patches" / name / upstream
    own = [path for path in sorted(folder.glob("*.patch")) if "@" not in path.name or f"@{device}." in path.name]
    who = ("-c", "user.name=a", "-c", "user.email=b@c")
    git(*who, "am", "--quiet", "--keep-cr", *own, at=tmp_path, environment=real_environment)
    overlay = bool(found.overlays(upstream, device))
    ours = git("log", "--reverse", "--format=%T", f"{up.pin}..HEAD~{overlay:d}", at=made.place / upstream).splitlines()
    theirs = git("log", "--reverse", "--format=%T", f"{up.pin}..HEAD", at=tmp_path).splitlines()
    assert ours == theirs
    assert len(ours) == len(own) > 0
    for back, fix in enumerate(reversed(applied(name, upstream))):
        kits = git("log", "-1", "--format=%B", f"HEAD~{back + overlay}", at=made.place / upstream)
        assert kits == git("log", "-1", "--format=%B", f"HEAD~{back}", at=tmp_path) + f"\n\nKit-Fix: {fix}"


@pytest.mark.parametrize(
    ("name", "upstream"), [(name, up) for name, up in UPSTREAMS if not upstream_of(name, up).sha256]
)
def test_a_cold_fetch_is_a_hundredth_of_a_clone(
    name: str, upstream: str, reach: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = upstream_of(name, upstream)
    reach(up.url)
    monkeypatch.setenv("KIT_CACHE", str(tmp_path))
    entry = store.ensure(up, RECIPES[name].path.parent)
    kept = sum(path.stat().st_size for path in entry.repository.rglob("*") if path.is_file())
    print(f"{name}/{upstream}: fetched {entry.fetched / 1e6:.2f} MB, {kept / 1e6:.2f} MB on disk")
    assert 0 < entry.fetched <= kept < COLD_BYTES.get(upstream, COLD_BYTES["diffusers"])
    assert store.ensure(up, RECIPES[name].path.parent).fetched == 0


def test_red_the_commit_before_the_pin_needs_what_the_pin_has(reach: Callable[[str], None]) -> None:
    """Upstream's own fix makes deepspeed-checkpoint and weights-pop satisfied: a commit earlier both are needed."""
    reach(DIFFUSERS)
    found = RECIPES["hidream"]
    before = replace(upstream_of("hidream", "diffusers"), pin=BEFORE_THE_PIN)
    files, profile = files_at(found, before), found.device("npu")
    steps, after = series.apply(found, "diffusers", profile, files, None)
    assert outcomes(steps) == dict.fromkeys(OUTCOMES["hidream"], "applied")
    for path, content in after.items():
        compile(content, path, "exec")
    # The committed patches were made from another blob, and for these two there are none: that is said.
    with pytest.raises(KitError, match=r"the patch is missing, and .* needs fix deepspeed-checkpoint") as raised:
        series.apply(found, "diffusers", profile, files, series.load_patches(found, "diffusers"))
    assert raised.value.hint == "run `kit refresh hidream`"


def test_red_a_moved_upstream_is_not_patched_at_an_offset(reach: Callable[[str], None]) -> None:
    """One comment line more at the top: the patches do not fit exactly, so the codemods run, in the right place."""
    reach(DIFFUSERS)
    found, profile = RECIPES["hidream"], RECIPES["hidream"].device("npu")
    patches = series.load_patches(found, "diffusers")
    files = files_at(found, upstream_of("hidream", "diffusers"))
    _, wanted = series.apply(found, "diffusers", profile, files, patches)
    moved = {path: b"# moved\n" + content for path, content in files.items()}
    steps, result = series.apply(found, "diffusers", profile, moved, patches)
    assert {file.how for step in steps for file in step.outcomes} == {"codemod", "check"}
    assert result == {path: b"# moved\n" + content for path, content in wanted.items()}


def test_the_readme_shows_what_is_printed(reach: Callable[[str], None], tmp_path: Path) -> None:
    from test_readme import printed, shown

    for command in [command for command in shown() if "prepare hidream" in command]:
        reach("https://github.com/huggingface/diffusers")
        assert printed(command, tmp_path) == shown()[command]
