"""`kit show RECIPE`: what it will change and why, from the recipe alone."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap

from kit import beside, output, recipes
from kit.options import Option, shown
from kit.recipe import FixStep, Recipe

PUBLISHED = "published"  # the profile with the settings that published figures were measured with


def run(recipe_name: str, as_json: bool) -> int:
    found = recipes.load(recipe_name)
    if as_json:
        data = dataclasses.asdict(found)
        data["path"] = str(found.path)
        del data["base"]
        for step, entry in zip(found.fix, data["fix"], strict=True):
            fix = step.module
            entry["brought"] = str(step.brought or "")
            del entry["runs"]
            entry["title"] = fix.TITLE if fix else "hand-written patch"
            entry["why"] = "\n\n".join(filter(None, [fix.WHY if fix else "", step.why]))
            entry["links"] = list(fix.LINKS) if fix else []
        output.as_json(data)
        return 0
    output.line(f"{found.name}: {found.title}")
    output.line(f"  {found.summary}")
    output.line(f"  devices: {', '.join(found.devices)}")
    packages = ", ".join(f"{name} {version}".strip() for name, version in found.environment.packages.items())
    output.line(f"  reference environment: Python {found.environment.python}, {packages}")
    output.line("\nupstreams")
    for upstream in found.upstream:
        output.line(f"  {upstream.name}  {upstream.url}")
        output.line(f"    pin {upstream.pin}{f' ({upstream.version})' if upstream.version else ''}")
        if upstream.sha256:
            output.line(f"    released source package, sha256 {upstream.sha256}")
        output.line(f"    checked out: {', '.join(upstream.sparse) or 'everything'}")
    output.line("\nfixes")
    for number, step in enumerate(found.fix, 1):
        _show_fix(number, step)
    output.line("\noverlay")
    for overlay in found.overlay:
        only = f" (only with --with {overlay.extra})" if overlay.extra else ""
        output.line(f"  into {overlay.upstream}/{overlay.into}{only}")
        source = beside.find("overlays", overlay.source, found.roots) or found.root
        for path in sorted(source.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                output.line(f"    {path.relative_to(source).as_posix().removesuffix('.j2')}")
    _show_options(found)
    _show_figures(found)
    output.line(f"\nnext: kit prepare {found.called} --device {found.devices[0]}")
    return 0


def _show_fix(number: int, step: FixStep) -> None:
    fix = step.module
    title = fix.TITLE if fix else "hand-written patch"
    marks = ["optional"] * step.optional + [f"only with --with {step.id}"] * step.extra + list(step.devices)
    marked = f" ({', '.join(marks)})" if marks else ""
    output.line(f"  {number}. {step.id}{marked}: {title}")
    for path in step.files:
        output.line(f"     {step.upstream}/{path}{f', made from {step.derive_from}' if step.derive_from else ''}")
    why = " ".join(f"{fix.WHY if fix else ''} {step.why}".split())
    output.line(textwrap.fill(why, 110, initial_indent="     ", subsequent_indent="     "))
    for link in fix.LINKS if fix else ():
        output.line(f"     {link}")


def _show_options(found: Recipe) -> None:
    """One line an option, by group, and one a profile."""
    for group in dict.fromkeys(option.group for option in found.option):
        output.line(f"\noptions{f': {group}' if group else ''} (--set NAME=VALUE)")
        output.table([(each.name, shown(each.default), _meaning(each)) for each in found.option if each.group == group])
    if found.profile:
        output.line("\nprofiles (--profile NAME)")
        rows = []
        for each in found.profile:
            values = ", ".join(f"{name}={shown(value)}" for name, value in each.set.items())
            only = f"on {', '.join(each.devices)}" if each.devices else ""
            rows.append((each.name, ": ".join(filter(None, [each.meaning, only, values]))))
        output.table(rows)


def _meaning(option: Option) -> str:
    only = [f"on {device} {shown(value)} unless told" for device, value in option.default_on.items()]
    only += [f"{choice} on {', '.join(devices)} only" for choice, devices in option.only_on.items()]
    only += [f"with {other}={' or '.join(map(shown, wanted))} only" for other, wanted in option.only_with.items()]
    notes = "; ".join([f"one of {', '.join(option.choices)}"] * bool(option.choices) + only)
    return f"{option.meaning} ({notes})" if notes else option.meaning


def _show_figures(found: Recipe) -> None:
    """The published figures under the setting each was measured with, and the command that takes those settings."""
    if not found.figure:
        return
    output.line("\npublished figures (what others measured; kit's own are in their reports)")
    for about, figures in itertools.groupby(found.figure, lambda each: (each.task, each.setting, each.details)):
        task, setting, details = about
        output.line(f"  {task}, with {setting}")
        if details:
            output.line(textwrap.fill(details, 110, initial_indent="    ", subsequent_indent="    "))
        output.table([(f"{each.value:g} {each.metric}", each.chip) for each in figures], indent="    ")
    if PUBLISHED in {preset.name for preset in found.profile}:
        output.line(f"  their settings: kit prepare {found.called} --device {found.devices[0]} --profile {PUBLISHED}")
