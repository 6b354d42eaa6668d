"""Start a training from its launch script: python LAUNCHER PROGRAM SCRIPT [--name=value]... [-- FLAG...]

PROGRAM is the name that the launch script was made under, which says what its settings are; SCRIPT is what it is called
now, for it may be copied and renamed."""

import sys

if sys.version_info < (3, 8):  # noqa: UP036  what follows would be a syntax error there
    sys.stderr.write("error: " + sys.executable + " is older than Python 3.8: activate the environment first\n")
    sys.exit(2)

sys.dont_write_bytecode = True  # the folder may be somebody else's
sys.path[0] = __file__.rsplit("/", 2)[0]

from launcher import output  # noqa: E402
from launcher.run import main  # noqa: E402

if __name__ == "__main__":
    output.prepare()
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
