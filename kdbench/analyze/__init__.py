"""The instruments: what a network's answers are like, and how they compare with its teacher's."""
