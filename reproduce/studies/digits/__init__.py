"""The study that a new one begins as: two layers on scikit-learn's digits."""
