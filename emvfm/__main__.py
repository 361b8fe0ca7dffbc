"""``python -m emvfm`` is the console script."""

from emvfm.cli.app import main

main()
