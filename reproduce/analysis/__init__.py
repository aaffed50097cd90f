"""Pure functions of recorded numbers: range tests, suggested rates, intervals, regret, claims. No torch, no MLflow."""
