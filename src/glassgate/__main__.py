"""``python -m glassgate`` is the command ``glassgate``."""

from glassgate.cli import main

if __name__ == "__main__":
    main()
