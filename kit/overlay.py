"""Overlays: files copied into the tree. `*.j2` are rendered with Jinja2, the rest is copied byte for byte."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit.errors import KitError
from kit.paths import TreePath, tree_path
from kit.recipe import Overlay
from kit.store import is_executable

if TYPE_CHECKING:
    import jinja2

File = tuple[int, bytes]  # git mode and content


def render(root: Path, overlay: Overlay, context: Mapping[str, Any]) -> dict[TreePath, File]:
    """The files of ``overlay`` (a folder under ``root``/overlays), by their path in the upstream.

    A run bit is kept. Raises KitError for a symbolic link or special file, for two sources of one path, and, with file
    and line, for a template that is malformed or uses a name that ``context`` does not define.
    """
    base = root / "overlays"
    files: dict[TreePath, File] = {}
    for source in sorted((base / overlay.source).rglob("*")):
        if "__pycache__" in source.parts or (source.is_dir() and not source.is_symlink()):
            continue
        if source.is_symlink() or not source.is_file():
            kind = "a symbolic link" if source.is_symlink() else "not a regular file"
            raise KitError(f"{source}: {kind}", "overlays hold regular files only: copy the file itself")
        relative = source.relative_to(base / overlay.source).as_posix()
        below = "" if overlay.into == "." else f"{overlay.into}/"
        target = tree_path(below + relative.removesuffix(".j2"), str(source))
        if target in files:
            raise KitError(f"{source}: {target} comes from two files of the overlay", "remove one of them")
        content = render_file(base, source, context) if relative.endswith(".j2") else source.read_bytes()
        files[target] = (0o100755 if is_executable(source) else 0o100644, content)
    return files


def render_file(base: Path, source: Path, context: Mapping[str, Any]) -> bytes:
    """One template, which may include others by their path under ``base``. Raises KitError with file and line."""
    import jinja2

    try:
        return _templates(base).get_template(source.relative_to(base).as_posix()).render(context).encode()
    except jinja2.TemplateSyntaxError as error:
        raise KitError(f"{error.filename or source}:{error.lineno}: {error.message}", "mend the template") from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".j2")]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else f"{source}:1"
        names = ", ".join(sorted(context))
        raise KitError(f"{place}: {error}", f"names a template may use: {names}") from None


@functools.cache  # compiling a recipe's templates takes longer than all else there is to rendering them
def _templates(base: Path) -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(base),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
