"""Check that MLflow answers, if this container runs its UI or server. A container with other work is healthy."""

import sys
import urllib.request
from pathlib import Path

import psutil


def mlflow_port() -> int | None:
    """Return the port of the MLflow UI or server that runs here; None if none runs."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "mlflow" in {Path(word).name for word in words} and {"ui", "server"} & set(words) and "--port" in words:
            return int(words[words.index("--port") + 1])
    return None


def main() -> int:
    """Return 0 if the container is healthy, else 1."""
    port = mlflow_port()
    if port is None:
        return 0
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=4) as answer:
            return 0 if answer.status == 200 else 1
    except OSError:
        return 1


if __name__ == "__main__":
    sys.exit(main())
