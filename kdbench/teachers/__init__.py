"""Teachers: live networks, ensembles, stored answers, and the teacher store."""
