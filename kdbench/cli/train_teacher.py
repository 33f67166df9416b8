"""`python -m kdbench.cli.train_teacher`: train a teacher; the run of kdbench.cli.train without a teacher."""

from kdbench.cli.train import main

if __name__ == "__main__":
    main("train_teacher")
