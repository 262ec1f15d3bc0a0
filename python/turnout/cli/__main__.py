"""``python -m turnout.cli`` is the command ``turnout``."""

from turnout.cli import main

main()
