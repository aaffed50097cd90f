"""What was recorded, put together: the runs of a study, their archive, comparisons and verdicts."""
