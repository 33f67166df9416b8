"""One teacher: `python -m kdbench.train_teacher teacher=resnet20`; the run of kdbench.train, without a teacher."""

from kdbench.train import main

if __name__ == "__main__":
    main("train_teacher")
