"""`python -m kdbench` is the command `kdbench`."""

from kdbench.cli.main import main

if __name__ == "__main__":
    main()
