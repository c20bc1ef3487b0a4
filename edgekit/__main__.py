"""``python -m edgekit`` is the ``edgekit`` command. Python 3.9 syntax, as devices have only the runtime."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command, or print one line saying why it cannot run here."""
    if sys.version_info < (3, 11):  # noqa: UP036
        here = ".".join(map(str, sys.version_info[:2]))
        print(f"edgekit: needs Python 3.11, this is {here}; only python -m edgekit.runtime runs here", file=sys.stderr)
        sys.exit(2)
    try:
        from edgekit.cli.main import main as command

        command()
    except KeyboardInterrupt:
        from edgekit.cli import _interrupted

        _interrupted.stop()


if __name__ == "__main__":
    main()
