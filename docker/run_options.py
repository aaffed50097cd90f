"""Print the options that `mlflow run` should put between `docker run` and the image, for docker/MLproject.

MLflow itself mounts only the SQLite file and one run's artifacts. Other runs' artifacts, the checkpoints and the report
would be lost with the container, and SQLite could not write its journal. So the store's directory is mounted at its own
path, and the container works in it as the user who typed the command. This module uses only the standard library,
because it runs outside the image.
"""

import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse
from urllib.request import url2pathname

IMAGE = re.search(r"image: (\S+)", Path(__file__).with_name("MLproject").read_text())[1]
LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def options(uri: str, run_id: str) -> list[str]:
    """Return the options for the tracking store `uri` and the run that `mlflow run` made in it."""
    if uri.startswith("sqlite:"):
        # MLflow and SQLAlchemy both read the path in this way.
        database = Path(unquote(uri.removeprefix("sqlite:///")))
        if not database.is_absolute():
            raise ValueError(
                f"{uri} is relative, and MLflow changes the directory: give the absolute path, sqlite:////…"
            )
        directory, artifacts = database.parent, _artifact_directories(database, run_id)
    else:
        directory, artifacts = Path("~/.cache/lenet5-reproduction").expanduser(), []
    directory = Path(os.environ.get("REPRODUCE_OUTPUT", directory)).resolve()
    wanted = [directory, database.parent, *artifacts] if uri.startswith("sqlite:") else [directory]
    mounted: list[Path] = []
    for path in wanted:
        # A directory that the engine makes belongs to root.
        path.mkdir(parents=True, exist_ok=True)
        if not any(path.is_relative_to(other) for other in mounted):
            mounted.append(path)
    # MLflow itself writes the first --volume.
    words = [word for path in mounted for word in ("--volume", f"{path}:{path}")][1:]
    words += ["--workdir", str(directory), "--user", _user(), "--env", f"REPRODUCE_IMAGE_ID={_image_id()}"]
    if urlparse(uri).hostname in LOOPBACK:
        words += ["--network", "host"]
    for word in words:
        if any(character.isspace() for character in word):
            raise ValueError(f"MLflow cannot pass on a path with a space in it: {word}")
    return words


def _artifact_directories(database: Path, run_id: str) -> list[Path]:
    """Return the directories of this machine in which the run's experiment and the run itself keep artifacts."""
    query = (
        "SELECT experiments.artifact_location, runs.artifact_uri FROM runs JOIN experiments USING (experiment_id) "
        "WHERE runs.run_uuid = ?"
    )
    with sqlite3.connect(database) as connection:
        uris = connection.execute(query, (run_id,)).fetchone() or ()
    here = [uri for uri in uris if uri.startswith(("/", "file:"))]
    return [Path(url2pathname(urlparse(uri).path)) if uri.startswith("file:") else Path(uri) for uri in here]


def _user() -> str:
    """Return the user who owns the container's files. In a rootless engine, root is the user who started the engine."""
    rootless = "rootless" in _docker("info", "--format", "{{.SecurityOptions}}")
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def _image_id() -> str:
    return _docker("image", "inspect", "--format", "{{.Id}}", IMAGE) or "none"


def _docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    try:
        print(*options(os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_RUN_ID"]))
    except (ValueError, OSError, sqlite3.Error) as problem:
        sys.exit(f"error: {problem}")
