"""``python -m diq``."""

from diq.cli import main

main()
