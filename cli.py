"""The command line from a clone: `python cli.py attack ...` is `robustastro attack ...`."""

from robustastro.cli import main

if __name__ == "__main__":
    main()
