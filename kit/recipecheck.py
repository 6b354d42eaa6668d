"""How a recipe is checked: what types alone cannot say, each fault with its file and line."""

from __future__ import annotations

import re

from kit import beside, devices, fixes, lock, options, proof
from kit.errors import KitError
from kit.paths import ID, NAME, TreePath, tree_path
from kit.recipe import ARCHIVES, TORCH, FixStep, Recipe, Upstream
from kit.schema import Source, fill, nearest


def check(recipe: Recipe, source: Source) -> None:
    """Raises KitError at the first fault of a recipe that was read from ``source``."""

    def need(good: object, keys: tuple[str | int, ...], what: str, hint: str = "") -> None:
        if not good:
            raise source.complain(keys, what, hint)

    need(NAME.fullmatch(recipe.name), ("name",), f"bad name {recipe.name!r}", "use a-z, 0-9, '.', '_' and '-'")
    need(
        recipe.name == recipe.path.stem,
        ("name",),
        f"the recipe is named {recipe.name!r}, its file {recipe.path.name!r}",
        f"rename the file to {recipe.name}.toml",
    )
    known = devices.names(recipe.roots)
    need(recipe.devices, ("devices",), "no device is supported", f"known devices: {', '.join(known)}")
    for device in recipe.devices:
        need(
            device in known,
            ("devices",),
            f"unknown device {device!r}{nearest(device, known)}",
            f"known devices: {', '.join(known)}",
        )
    need(recipe.extends or not recipe.without, ("without",), "`without` is for a recipe that `extends` another")
    need(recipe.upstream, ("upstream",), "there is no upstream", "add an [[upstream]] table")
    folders = [upstream.name for upstream in recipe.upstream]
    for index, upstream in enumerate(recipe.upstream):
        _check_upstream(upstream, ("upstream", index), folders, source)
    seen: set[str] = set()
    known = ["patch", *fixes.names(recipe.roots)]
    for index, step in enumerate(recipe.fix):
        at = ("fix", index)
        need(NAME.fullmatch(step.id), (*at, "id"), f"bad fix id {step.id!r}", "use a-z, 0-9, '.', '_' and '-'")
        need(step.id not in seen, (*at, "id"), f"two fixes are called {step.id!r}", "give each its own id")
        seen.add(step.id)
        use = step.use or step.id
        what = f"there is no fix {use!r}, beside the recipe or in kit{nearest(use, known)}"
        need(use in known, at, what, f"known fixes: {', '.join(known)}")
        need(use != "patch" or step.why, at, f"fix {step.id} is hand-written and does not say why", "add `why = …`")
        need(step.files, (*at, "files"), f"fix {step.id} names no file", 'add `files = ["path/in/upstream.py"]`')
        need(len(set(step.files)) == len(step.files), (*at, "files"), f"fix {step.id} names a file twice", "")
        one = not step.derive_from or (len(step.files) == 1 and step.derive_from not in step.files)
        what = f"fix {step.id} derives {', '.join(step.files)} from {step.derive_from}"
        need(one, (*at, "derive_from"), what, "name one file that is not there yet, and one to copy it from")
        _check_options(step, at, recipe, source)
        need(step.count > 0, (*at, "count"), f"fix {step.id}: count must be at least 1", "")
        paths = (*step.files, *([step.derive_from] if step.derive_from else []))
        _check_use(step.upstream, step.devices, paths, at, folders, recipe, source)
    for index, overlay in enumerate(recipe.overlay):
        at = ("overlay", index)
        paths = (overlay.source, *(path for path in (overlay.into,) if path != "."), *overlay.replace)
        _check_use(overlay.upstream, overlay.devices, paths, at, folders, recipe, source)
        folder = beside.find("overlays", overlay.source, recipe.roots)
        extras = [step.id for step in recipe.fix if step.extra]
        what = f"extra {overlay.extra!r} is no extra fix of the recipe{nearest(overlay.extra, extras)}"
        need(overlay.extra in ("", *extras), (*at, "extra"), what, f"extra fixes: {', '.join(extras) or 'none'}")
        hint = f"create {recipe.root / 'overlays' / overlay.source}"
        need(folder and folder.is_dir(), (*at, "source"), f"there is no folder overlays/{overlay.source}", hint)
    python = recipe.environment.python
    need(
        re.fullmatch(r"3\.\d+", python), ("environment", "python"), f"bad Python {python!r}", 'write `python = "3.10"`'
    )
    _check_environments(recipe, source)
    options.check(recipe.option, recipe.profile, recipe.devices, source)
    _check_words(recipe, source)
    if recipe.smoke:
        families = beside.families(recipe.roots)
        tiny = recipe.smoke.tiny
        what = f"there is no tiny model of {tiny!r}{nearest(tiny, families)}"
        need(tiny in families, ("smoke", "tiny"), what, f"there are: {', '.join(sorted(families))}")
        proof.check(recipe.smoke, recipe.devices, [step.id for step in recipe.fix], source)
    cluster = recipe.cluster
    need(cluster.machines >= 1, ("cluster", "machines"), "machines must be at least 1", "")
    rank = ("cluster", "machine_rank")
    need(0 <= cluster.machine_rank < cluster.machines, rank, "machine_rank must be below machines", "")


def _check_environments(recipe: Recipe, source: Source) -> None:
    """Packages are for devices of the recipe; another torch is a choice of the option `torch`, whose default is the
    environment's own."""
    environment = recipe.environment
    tables: dict[tuple[str, ...], dict[str, dict[str, str]]] = {(): environment.device_packages}
    tables |= {("other", torch): each.device_packages for torch, each in environment.other.items()}
    for keys, table in tables.items():
        for device in table:
            if device not in recipe.devices:
                what, hint = f"device {device!r} is not one of the recipe's", f"supported: {', '.join(recipe.devices)}"
                raise source.complain(("environment", *keys, "device_packages", device), what, hint)
    option = next((each for each in recipe.option if each.name == TORCH), None)
    choices = {environment.packages.get("torch", ""), *environment.other}
    if environment.other and (not option or set(option.choices) != choices or option.default in environment.other):
        what = f"environment.other: there is no option `torch` that offers {', '.join(sorted(choices))}"
        hint = f"add an [[option]] `torch` with these choices and the default {environment.packages.get('torch', '')!r}"
        raise source.complain(("environment", "other"), what, hint)


def _check_words(recipe: Recipe, source: Source) -> None:
    """What the words of its check leave open is filled in."""
    places = {"device", "processes", *(option.name for option in recipe.option)}
    for word in recipe.check[1:]:
        try:
            fill(word, **dict.fromkeys(places, ""))
        except KeyError as error:
            name = error.args[0]
            what = f"check: {word!r}: nothing is called {name!r}{nearest(name, places)}"
            raise source.complain(("check",), what, f"there are: {', '.join(sorted(places))}") from None
        except (TypeError, ValueError) as error:
            what = f"check: {word!r}: {error}"
            raise source.complain(("check",), what, f"there are: {', '.join(sorted(places))}") from None


def _check_upstream(upstream: Upstream, at: tuple[str, int], folders: list[str], source: Source) -> None:
    if not NAME.fullmatch(upstream.name):
        hint = "it becomes a folder of the workspace: use a-z, 0-9, '.', '_' and '-'"
        raise source.complain((*at, "name"), f"bad upstream name {upstream.name!r}", hint)
    if upstream.name == lock.NAME:
        raise source.complain((*at, "name"), f"{upstream.name!r} is the workspace's own file", "rename the upstream")
    if folders.count(upstream.name) > 1:
        raise source.complain((*at, "name"), f"two upstreams share the folder {upstream.name!r}", "rename one of them")
    if not ID.fullmatch(upstream.pin):
        short = re.fullmatch("[0-9a-f]{4,39}", upstream.pin)
        how = f"rev-parse {upstream.pin}, in a clone of it" if short else f"ls-remote {upstream.url} {upstream.pin}"
        hint = f"pin the full 40-digit commit: git {how}"
        if upstream.carried or upstream.sha256:
            hint = "write 40 zeros: `kit prepare` then says which commit its files make"
        raise source.complain((*at, "pin"), f"{upstream.pin!r} is not a full commit id", hint)
    for key, url in (("url", upstream.url), *(("alternates", url) for url in upstream.alternates)):
        if url.endswith(ARCHIVES) and not upstream.sha256:
            raise source.complain((*at, key), f"url {url!r} is an archive", "add `sha256 = …`, the digest of the file")
        if re.fullmatch(r"https://[!-~]+", url):
            continue
        if ":" in url or url.startswith("-") or not url:
            hint = "use https:// or a folder beside the recipe"
            raise source.complain((*at, key), f"url {url!r} is not https", hint)
        _check_path(url.removeprefix("/"), (*at, key), key, source)
    if upstream.sha256 and (upstream.carried or not re.fullmatch(r"[0-9a-f]{64}", upstream.sha256)):
        what = "a carried folder has no digest" if upstream.carried else f"{upstream.sha256!r} is no sha256 digest"
        raise source.complain((*at, "sha256"), what, "sha256sum ARCHIVE prints it: 64 hex digits")
    for folder in upstream.sparse:
        _check_path(folder, (*at, "sparse"), "sparse", source)


def _check_options(step: FixStep, at: tuple[str, int], recipe: Recipe, source: Source) -> None:
    for key, value in step.options.items():
        try:
            fill(value, device=devices.load(recipe.devices[0], recipe.roots))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            hint = "a fact of the device is written {device.device}; braces are doubled: {{ }}"
            raise source.complain((*at, "options"), f"fix {step.id}: option {key}: {value!r}: {error}", hint) from None


def _check_use(
    upstream: str,
    used_on: tuple[str, ...],
    paths: tuple[TreePath, ...],
    at: tuple[str, int],
    folders: list[str],
    recipe: Recipe,
    source: Source,
) -> None:
    """What fixes and overlays have in common: a known upstream, supported devices, paths inside the tree."""
    if not upstream:
        raise source.complain(
            at, f"[[{at[0]}]] does not say which upstream", f"add `upstream = …`: {', '.join(folders)}"
        )
    if upstream not in folders:
        hint = f"upstreams here: {', '.join(folders)}"
        raise source.complain((*at, "upstream"), f"unknown upstream {upstream!r}{nearest(upstream, folders)}", hint)
    for device in used_on:
        if device not in recipe.devices:
            hint = f"supported: {', '.join(recipe.devices)}"
            raise source.complain((*at, "devices"), f"device {device!r} is not one of the recipe's", hint)
    for path in paths:
        _check_path(path, at, at[0], source)


def _check_path(path: str, at: tuple[str | int, ...], what: str, source: Source) -> None:
    """Its line is looked for only where it is to be told."""
    try:
        tree_path(path, what)
    except KitError as error:
        raise source.complain(at, error.message, error.hint) from None
