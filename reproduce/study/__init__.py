"""What is to be run: a study's file, its trials and a user's own. Knows neither torch nor MLflow."""
