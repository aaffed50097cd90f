"""How a trial is trained: the loop, its parts, its checkpoints, and what decides its numbers. Knows no MLflow."""
