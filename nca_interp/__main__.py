"""`nca-interp`, `python -m nca_interp`, and `torchrun ... -m nca_interp train RECIPE` on several devices.

What must come first does: a safe path, then the signals, then all other imports.
"""

from __future__ import annotations

import sys

from nca_interp.safe_path import leave_out_working_directory


def main() -> None:
    """Run the command line and leave with its exit code."""
    leave_out_working_directory()
    from nca_interp.signals import interruptible

    sys.exit(interruptible(_call))


def _call() -> int:
    from nca_interp.cli.app import call

    return call(sys.argv[1:])


if __name__ == "__main__":
    main()
