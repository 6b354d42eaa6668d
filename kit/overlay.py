"""Overlays: files copied into the tree. `*.j2` are rendered with Jinja2, the rest is copied byte for byte."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kit import beside
from kit.errors import KitError
from kit.paths import TreePath, no_link, regular_files, tree_path
from kit.recipe import Overlay
from kit.store import is_executable

if TYPE_CHECKING:
    import jinja2

File = tuple[int, bytes]  # git mode and content


def render(roots: tuple[Path, ...], overlay: Overlay, context: Mapping[str, Any]) -> dict[TreePath, File]:
    """The files of ``overlay`` (a folder of overlays/ in one of the ``roots``, or of kit's), by their path in the
    upstream.

    A run bit is kept. Raises KitError for a symbolic link or special file, for two sources of one path, and, with file
    and line, for a template that is malformed or uses a name that ``context`` does not define.
    """
    bases = beside.folders("overlays", roots)
    folder = beside.find("overlays", overlay.source, roots) or bases[0] / overlay.source
    files: dict[TreePath, File] = {}
    for source in regular_files(folder):
        relative = source.relative_to(folder).as_posix()
        below = "" if overlay.into == "." else f"{overlay.into}/"
        target = tree_path(below + relative.removesuffix(".j2"), str(source))
        if target in files:
            raise KitError(f"{source}: {target} comes from two files of the overlay", "remove one of them")
        name = f"{overlay.source}/{relative}"
        content = render_file(bases, name, context) if relative.endswith(".j2") else source.read_bytes()
        files[target] = (0o100755 if is_executable(source) else 0o100644, content)
    return files


def render_file(bases: tuple[Path, ...], name: str, context: Mapping[str, Any]) -> bytes:
    """One template by its path under one of the ``bases``, which may include others by theirs. Raises KitError with
    file and line."""
    import jinja2

    try:
        return _templates(bases).get_template(name).render(context).encode()
    except jinja2.TemplateSyntaxError as error:
        raise KitError(
            f"{error.filename or bases[0] / name}:{error.lineno}: {error.message}", "mend the template"
        ) from None
    except (
        jinja2.TemplateError,
        ArithmeticError,
        KitError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".j2")]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else f"{bases[0] / name}:1"
        names = ", ".join(sorted(context))
        what = error.message if isinstance(error, KitError) else str(error) or type(error).__name__
        raise KitError(f"{place}: {what}", f"names a template may use: {names}") from None


@functools.cache  # compiling a recipe's templates takes longer than all else there is to rendering them
def _templates(bases: tuple[Path, ...]) -> jinja2.Environment:
    """In Jinja's sandbox: a recipe may be a stranger's, and preparing it runs nothing of theirs."""
    import jinja2
    import jinja2.sandbox

    def load(name: str) -> tuple[str, str, Callable[[], bool]]:
        path = next((base / name for base in bases if (base / tree_path(name, "template")).is_file()), None)
        if not path:
            raise jinja2.TemplateNotFound(name, f"{name!r} not found in {' or '.join(map(str, bases))}")
        no_link(path, next(base for base in bases if path.is_relative_to(base)))
        written = path.stat().st_mtime_ns
        return path.read_text(encoding="utf-8"), str(path), lambda: path.stat().st_mtime_ns == written

    return jinja2.sandbox.ImmutableSandboxedEnvironment(
        loader=jinja2.FunctionLoader(load),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
