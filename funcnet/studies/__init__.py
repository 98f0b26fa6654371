"""Studies of many trainings as one program: sweeps, ensembles, cross-validation."""
