"""Lightning modules, the training step, schedules, evaluation, and run folders."""
