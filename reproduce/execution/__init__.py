"""Who trains the trials: the cores of this machine, or a Ray cluster."""
