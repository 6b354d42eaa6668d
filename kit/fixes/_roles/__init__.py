"""What the parts of a script are, whatever they are called: read once for a file, and asked by every fix.

`read(tree)` gives the script; each module here answers one kind of question about it:

- `_script`: its statements, calls and imports, and what a name there means;
- `uses`: where its functions are called, or handed on;
- `paths`: on which paths a name is bound, and not None;
- `holders`: which names, attributes and parameters hold an Accelerator; which options exist;
- `loops`: which loops go over epochs and which over batches, and where the step limit ends them;
- `processes`: which statements all processes must come to, and which are one process's work;
- `hooks`: which functions save and load state, and which of their parameters are what;
- `places`: which device a branch is for; whether a file is a script or a module of a library.

It is plain `ast`: nothing of the script is run.
"""

from __future__ import annotations

from kit.fixes._roles._script import Script, read

__all__ = ["Script", "read"]
