"""Note how long process 0 of a training waits for each batch: a number of seconds a line, in the file $LAUNCHER_WAITS.
And save a checkpoint when that is asked for: launcher_saving.py.

Python imports this as it starts, for its folder is on PYTHONPATH; the sitecustomize that it hides is imported after it.
"""

import contextlib
import importlib.machinery
import importlib.util
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def watch(module):
    """Time every batch that an iterator of torch's DataLoader hands out."""
    iterator, place = module._BaseDataLoaderIter, os.environ["LAUNCHER_WAITS"]
    original = iterator.__next__
    if hasattr(original, "watched"):
        return

    def timed(self):
        began = time.monotonic()
        batch = original(self)
        with contextlib.suppress(OSError), open(place, "a") as file:  # a full disk is the training's to tell
            file.write(f"{time.monotonic() - began:.6f}\n")
        return batch

    timed.watched = True
    iterator.__next__ = timed


class Finder:
    """Hands a module over to its hook once it is imported, whenever that is."""

    def find_spec(self, name, path=None, target=None):
        hook = hooks.pop(name, None)
        spec = importlib.util.find_spec(name) if hook else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def hooked(module):
                execute(module)
                hook(module)

            spec.loader.exec_module = hooked
        return spec


hooks = {}
if os.environ.get("LAUNCHER_WAITS") and os.environ.get("RANK", "0") == "0":
    hooks["torch.utils.data.dataloader"] = watch
if os.environ.get("LAUNCHER_STOP"):
    import launcher_saving

    hooks.update(launcher_saving.HOOKS)
for _name in [each for each in hooks if each in sys.modules]:
    hooks.pop(_name)(sys.modules[_name])
sys.meta_path.insert(0, Finder())

_hidden = importlib.machinery.PathFinder.find_spec(
    "sitecustomize", [path for path in sys.path if os.path.abspath(path) != HERE]
)
if _hidden and _hidden.loader:
    _hidden.loader.exec_module(importlib.util.module_from_spec(_hidden))
