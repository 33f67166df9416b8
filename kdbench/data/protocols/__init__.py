"""What the student sees of the training set: subsets, omitted classes, imbalance, label noise."""
