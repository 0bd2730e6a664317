"""``python -m lstm_xp``: the same program as ``lstm-xp``."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
