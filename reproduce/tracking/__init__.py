"""The MLflow store: opened, checked, read and written, with a heartbeat and retries."""
