"""Print what an image is made of, as JSON: its base, the commit, and one digest over its contents.

An image cannot contain the id that the engine gives it. It can contain this digest, and anyone can compute it again in
the image: `docker run --rm IMAGE python /opt/reproduce/docker/identity.py` computes it, and
`cat /opt/reproduce/image.json` prints the one that its runs record.
"""

import argparse
import hashlib
import json
import platform
import subprocess
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BROUGHT = (Path("/opt/data"), Path("/opt/fused"))
NOT_CONTENT = {"__pycache__", "image.json"}


def contents() -> list[str]:
    """Return what the image contains, a line each: packages of Debian and Python, files of checkout, data, kernel."""
    debian = subprocess.run(["dpkg-query", "-W"], capture_output=True, text=True, check=True).stdout.splitlines()
    python = [f"{found.name}=={found.version}" for found in distributions()]
    files = [path for folder in (ROOT, *BROUGHT) for path in folder.rglob("*") if path.is_file()]
    hashed = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}"
        for path in files
        if not NOT_CONTENT & set(path.parts) and ".egg-info" not in str(path)
    ]
    return [f"python {platform.python_version()}", *sorted(debian), *sorted(set(python)), *sorted(hashed)]


def main() -> None:
    """Print what the image is made of."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--base")
    parser.add_argument("--commit")
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    digest = hashlib.sha256("\n".join(contents()).encode()).hexdigest()
    print(json.dumps({"contents": f"sha256:{digest}", **given}, indent=1))


if __name__ == "__main__":
    main()
