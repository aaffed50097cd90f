"""A report's folder as an RO-Crate: what each file is, what made it, and from what. Knows nothing of torch or MLflow.

The crate is of version 1.1 and keeps to the Process Run Crate profile 0.5, which knows no newer base. The same inputs
give the same bytes: nothing in it comes from the clock, the machine or the place of the folder.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate

from reproduce.study.schema import PAPER_FILE, Publication
from reproduce.training.checkout import ROOT

METADATA = "ro-crate-metadata.json"
CITATION = ROOT / "CITATION.cff"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
# RO-Crate 1.1's own context has no word for a SHA-256.
SHA256_TERM = "https://w3id.org/ro/terms/workflow-run#sha256"
# The projects' own sites: what ran is theirs, wherever it was installed from.
HOMES = {
    "colossalai": "https://colossalai.org/", "mlflow": "https://mlflow.org/", "numpy": "https://numpy.org/",
    "python": "https://www.python.org/", "torch": "https://pytorch.org/", "torchvision": "https://docs.pytorch.org/vision/",
}  # fmt: skip
COMPLETED = "http://schema.org/CompletedActionStatus"
# A report on no runs has no date, and the format demands one.
UNDATED = datetime(1970, 1, 1, tzinfo=UTC)
DESCRIPTIONS = {
    "runs.json": "Every run behind the report, from which it can be made again",
    "index.html": "The report, as a page",
    "report.md": "The report: tables, figures and what they say of the paper's claims",
    "claims.json": "The verdict on each of the paper's claims, with the rule and the runs behind it",
    "summary.csv": "The final values of every training run",
    "summary.md": "The paper's final values and those measured, side by side",
    "summary.json": "Every training run and range test with its parameters, and the paper's values beside",
    "range-test.csv": "Rate, loss and smoothed loss at every step of every range test",
    "environment.json": "The code, versions and hardware that the runs were made with",
    "figure": "A figure of the report",
}
# Not mimetypes: what that answers depends on the machine's own tables.
FORMATS = {
    ".csv": "text/csv", ".html": "text/html", ".json": "application/json", ".md": "text/markdown", ".png": "image/png",
    ".svg": "image/svg+xml", ".yaml": "application/yaml",
}  # fmt: skip


@dataclass(frozen=True)
class Action:
    """One run that made numbers: a training run as the tracking store has it.

    `started_at` and `ended_at` know their time zone. `metrics` are final values; they may be infinite or NaN. `outcome`
    is finished or diverged.
    """

    name: str
    run_id: str
    started_at: datetime
    ended_at: datetime
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]
    outcome: str


@dataclass(frozen=True)
class Provenance:
    """How a report came about.

    `command` is what was typed for it, `commit` a hash or `unknown`, `uncommitted_changes` what the runs say of them
    (yes, no, unknown). `versions` maps packages to theirs, `dataset` the data's files to their SHA-256 in hex.
    """

    command: str
    commit: str
    uncommitted_changes: str
    versions: Mapping[str, str]
    dataset: Mapping[str, str]
    dataset_name: str


def write(folder: Path, actions: Sequence[Action], provenance: Provenance, publication: Publication) -> None:
    """Describe every file that `folder` holds, in a new `ro-crate-metadata.json` in it.

    FileNotFoundError where there is no folder.

    Args:
        folder: The report's.
        actions: The runs behind it.
        provenance: How it came about.
        publication: The paper that it is about.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder to describe: {folder}")
    ordered = sorted(actions, key=lambda action: (action.started_at, action.run_id))
    last = _time(max((action.ended_at for action in ordered), default=UNDATED))
    citation = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms["sha256"] = SHA256_TERM
    package = _package(crate, citation, provenance)
    name = provenance.dataset_name
    data = [
        _add(crate, _id("dataset", name, file), "File", **_about(file, sha256, f"A file of {name}"))
        for file, sha256 in sorted(provenance.dataset.items())
    ]
    dataset = _add(crate, _id("dataset", name), "Dataset", name=name, hasPart=data)
    about = _about(PAPER_FILE.name, _sha256(PAPER_FILE), "The paper's study, as data")
    study = _add(crate, "#study.yaml", "File", **about)
    files = []
    for file, sha256 in sorted(_hashes(folder).items()):
        size_in_bytes = {"contentSize": str((folder / file).stat().st_size)}
        about = _about(file, sha256, description(file))
        files.append(crate.add_file(folder / file, file, properties=about | size_in_bytes))
    runs = [_run(crate, action, package, [*data, study]) for action in ordered]
    report = _add(
        crate, "#report", "CreateAction",
        name="report",
        # With its true time the same runs would give another crate every time.
        description=f"Made by `{provenance.command}`; it has the time of the last training run",
        instrument=package, object=[study, *(result for run in runs for result in run["result"])], result=files,
        endTime=last, actionStatus=COMPLETED,
    )  # fmt: skip
    mentions = [*runs, report, dataset]
    _describe_root(crate, publication, package, name=citation["title"], datePublished=last, mentions=mentions)
    # RO-Crate wants the only item of a list without the list.
    for properties in (entity.properties() for entity in crate.get_entities()):
        single = {key: value for key, value in properties.items() if isinstance(value, list) and len(value) == 1}
        properties |= {key: value for key, (value,) in single.items()}
    crate.metadata.write(folder)


def description(name: str) -> str:
    """Return what a report's file of that name is."""
    return DESCRIPTIONS.get("figure" if name.startswith("figure-") else name, "A file of the report")


def stale(folder: Path) -> list[str]:
    """Return the names of the files that are not what the crate says: changed, missing, or there and not described.

    Where the crate itself is missing or cannot be read, that is it and every file.
    """
    present = _hashes(folder)
    try:
        graph = json.loads((folder / METADATA).read_bytes())["@graph"]
        files = [entity for entity in graph if entity["@type"] == "File" and not entity["@id"].startswith("#")]
        described = {unquote(entity["@id"]): entity["sha256"] for entity in files}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return sorted({METADATA, *present})
    return sorted(name for name in described.keys() | present.keys() if described.get(name) != present.get(name))


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below the folder, by its path from there; without the crate's own."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: _sha256(path) for name, path in paths.items() if name != METADATA}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _id(*parts: str) -> str:
    """Return the name of what is in no file of the crate, whatever characters its parts have."""
    return "#" + "/".join(quote(part, safe="") for part in parts)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _about(name: str, sha256: str, description: str) -> dict[str, str]:
    """Return what the entity of a file says of it."""
    encoding = FORMATS.get(Path(name).suffix, "application/octet-stream")
    return {"name": name, "description": description, "encodingFormat": encoding, "sha256": sha256}


def _add(crate: ROCrate, entity_id: str, kind: str | list[str], **properties: Any) -> Entity:
    """Add an entity to the crate, without the properties that are None."""
    given = {name: value for name, value in properties.items() if value is not None}
    return crate.add(ContextEntity(crate, entity_id, {"@type": kind} | given))


def _run(crate: ROCrate, action: Action, package: Entity, used: list[Entity]) -> Entity:
    """Add a training run. One that diverged is completed too: that it did is its result."""
    numbers = {name: value if math.isfinite(value) else str(value) for name, value in action.metrics.items()}
    results = [
        _add(crate, _id("run", action.run_id, name), "PropertyValue", name=name, value=value)
        for name, value in sorted((numbers | {"outcome": action.outcome}).items())
    ]
    # There is one entity for the same value, however many runs had it.
    parameters = [
        _add(crate, _id("parameter", name, value), "PropertyValue", name=name, value=value)
        for name, value in sorted(action.parameters.items())
    ]
    return _add(
        crate, _id("run", action.run_id), "CreateAction",
        name=action.name, description=f"A training run of the study; it {action.outcome}", identifier=action.run_id,
        instrument=package, object=[*used, *parameters], result=results,
        startTime=_time(action.started_at), endTime=_time(action.ended_at), actionStatus=COMPLETED,
    )  # fmt: skip


def _package(crate: ROCrate, citation: dict[str, Any], provenance: Provenance) -> Entity:
    """Add what ran: this package, as CITATION.cff has it, and the versions that it ran on.

    A commit that is not known is left out; that the files may not be the commit's is said.
    """
    changes, commit = provenance.uncommitted_changes, provenance.commit
    caveat = "" if changes in ("no", "") else f" (changes that are not in the commit: {changes})"
    address, licence = citation.get("repository-code"), citation["license"]
    names = [author["name"] for author in citation["authors"]]
    authors = [_add(crate, _id("author", name), "Organization", name=name, url=address) for name in names]
    return _add(
        crate, address or "#package", ["SoftwareApplication", "SoftwareSourceCode"],
        name="lenet5-reproduction", description=citation["title"] + caveat, version=citation["version"],
        identifier=None if commit in ("unknown", "") else commit,
        url=address, codeRepository=address, author=authors,
        license=_add(crate, f"https://spdx.org/licenses/{licence}", "CreativeWork", name=licence),
        softwareRequirements=[
            _add(crate, HOMES[name], "SoftwareApplication", name=name, softwareVersion=version, url=HOMES[name])
            for name, version in sorted(provenance.versions.items())
        ],
    )  # fmt: skip


def _describe_root(crate: ROCrate, publication: Publication, package: Entity, **properties: object) -> None:
    """Say what the folder is as a whole. It names no publisher, and its actions no agent: nobody knows who ran this."""
    publisher, year, title = publication.publisher, publication.year, publication.title
    organization = _add(crate, publisher.url, "Organization", name=publisher.name, url=publisher.url)
    authors = [
        _add(crate, _id("author", name), "Person", name=name, affiliation=organization) for name in publication.authors
    ]
    paper = _add(
        crate, "#paper", "Report",
        name=title, author=authors, publisher=organization, url=publication.url, datePublished=str(year),
    )  # fmt: skip
    profile = _add(crate, PROFILE, "CreativeWork", name="Process Run Crate", version=PROFILE.rpartition("/")[2])
    properties |= {
        "description": f"What \"{title}\" ({', '.join(publication.authors)}, {publisher.name}, {year}) reports, beside "
        "what training runs of the same models gave",
        "license": package["license"], "author": package["author"], "citation": paper, "conformsTo": profile,
    }  # fmt: skip
    for key, value in properties.items():
        crate.root_dataset[key] = value
