"""Whether MLflow answers, where this container serves it as UI or server; all other work counts as healthy."""

import sys
import urllib.request
from pathlib import Path

import psutil


def mlflow_port() -> int | None:
    """The port of the MLflow UI or server running here, if one is."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "mlflow" in {Path(word).name for word in words} and {"ui", "server"} & set(words) and "--port" in words:
            return int(words[words.index("--port") + 1])
    return None


def main() -> int:
    """0 when all is well, else 1."""
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
