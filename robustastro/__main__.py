"""`python -m robustastro` is the command line."""

from robustastro.cli import main

main()
