"""`python -m aurac`."""

from aurac.cli import main

if __name__ == "__main__":
    main()
