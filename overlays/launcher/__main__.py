"""Start a training from its launch script: python LAUNCHER SCRIPT [--name=value]... [-- FLAG...]"""

import sys
from pathlib import Path

sys.dont_write_bytecode = True  # the folder may be somebody else's
sys.path[0] = str(Path(__file__).resolve().parents[1])

from launcher.run import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
