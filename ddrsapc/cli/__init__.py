"""The command `ddrsapc` (extra `cli`)."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command; exits with 0, with 2 for input that cannot be used, with 130 after Ctrl-C."""
    try:
        import click  # noqa: F401, PLC0415
    except ImportError:
        print('error: click is missing; install the extra with: pip install "ddrsapc[cli]"', file=sys.stderr)  # noqa: T201
        sys.exit(2)
    from ddrsapc.cli.app import run  # noqa: PLC0415

    sys.exit(run())
