"""Changes of the training set: subsets, omitted classes, imbalance, label noise, class-balanced batches."""
