"""The command ``turnout``. It needs typer and rich: ``pip install 'turnout[cli]'``."""

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command. Without its libraries one line says what to install."""
    try:
        from turnout.cli.app import app
    except ImportError as error:
        if error.name is None:
            sys.exit(str(error))  # it says what to install
        if error.name.partition(".")[0] == "turnout":
            raise  # a fault of our own must not look like a missing library
        sys.exit(f"turnout needs {error.name}: pip install 'turnout[cli]'")
    app()
