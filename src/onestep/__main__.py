"""``python -m onestep``."""

from onestep.cli import main

if __name__ == "__main__":
    main()
