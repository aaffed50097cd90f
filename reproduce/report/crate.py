"""A report's folder as an RO-Crate: what each file is, what made it, and from what.

The crate is of version 1.1 and keeps to the Process Run Crate profile 0.5, which knows no newer base. The same inputs
give the same bytes: nothing in it comes from the clock, the machine or the place of the folder.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from rocrate.model.contextentity import ContextEntity
from rocrate.model.entity import Entity
from rocrate.rocrate import ROCrate

from reproduce.data import study_data
from reproduce.data.datasets import SHA256
from reproduce.files import file_sha256
from reproduce.report.output_folder import DESCRIPTIONS, METADATA, described_files
from reproduce.results.archive import finite
from reproduce.study.location import FILE as STUDY
from reproduce.study.schema import Publication
from reproduce.tracking.reader import Result
from reproduce.training.checkout import ROOT

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
UNDATED = datetime(1970, 1, 1, tzinfo=timezone.utc)
# Not mimetypes: what that answers depends on the machine's own tables.
FORMATS = {
    ".csv": "text/csv", ".html": "text/html", ".json": "application/json", ".md": "text/markdown", ".png": "image/png",
    ".svg": "image/svg+xml", ".yaml": "application/yaml",
}  # fmt: skip


def write(
    folder: Path,
    runs: Iterable[Result],
    publication: Publication,
    command: str,
    environment: Mapping[str, Sequence[str]],
    dataset: str,
    own_data: str | None = None,
) -> None:
    """Describe every file that `folder` holds, in a new `ro-crate-metadata.json` in it.

    Args:
        folder: The report's.
        runs: The runs behind it.
        publication: The paper that it is about.
        command: What was typed for it.
        environment: What the runs were made with, by name, more than one value where they differ.
        dataset: The name of their data set.
        own_data: The hash of a study's own data.
    """
    ordered = sorted(runs, key=lambda run: (run.started_at, run.run_id))
    last = _time(max((run.ended_at for run in ordered), default=UNDATED))
    citation = yaml.safe_load(CITATION.read_text(encoding="utf-8"))
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms["sha256"] = SHA256_TERM
    package = _package(crate, citation, {name: ", ".join(values) for name, values in environment.items()})
    data = [
        _add(crate, _id("dataset", dataset, file), "File", **_about(file, sha256, f"A file of {dataset}"))
        for file, sha256 in sorted(SHA256.get(dataset, {}).items())
    ]
    about = {"hasPart": data} if data else {"identifier": study_data.sha256(dataset, own_data)}
    data_set = _add(crate, _id("dataset", dataset), "Dataset", name=dataset, **about)
    files = {}
    for file, sha256 in sorted(_hashes(folder).items()):
        size_in_bytes = {"contentSize": str((folder / file).stat().st_size)}
        about = _about(file, sha256, description(file))
        files[file] = crate.add_file(folder / file, file, properties=about | size_in_bytes)
    study = files.pop(STUDY)
    used = [*(data or [data_set]), study, *(files.pop(name) for name in sorted(files) if name.endswith(".py"))]
    actions = [_run(crate, run, package, used) for run in ordered]
    results = [result for action in actions for result in action["result"]]
    report = _add(
        crate, "#report", "CreateAction",
        name="report",
        # With its true time the same runs would give another crate every time.
        description=f"Made by `{command}`; it has the time of the last training run",
        instrument=package, object=[study, *results], result=list(files.values()),
        endTime=last, actionStatus=COMPLETED,
    )  # fmt: skip
    mentions = [*actions, report, data_set]
    _describe_root(crate, publication, package, name=citation["title"], datePublished=last, mentions=mentions)
    # RO-Crate requires the only item of a list to stand without the list.
    for properties in (entity.properties() for entity in crate.get_entities()):
        single = {key: value for key, value in properties.items() if isinstance(value, list) and len(value) == 1}
        properties |= {key: value for key, (value,) in single.items()}
    crate.metadata.write(folder)


def description(name: str) -> str:
    """Return what a report's file of that name is."""
    if name.endswith(".py"):
        return "The study's own Python"
    return DESCRIPTIONS.get("figure" if name.startswith("figure-") else name, "A file of the report")


def stale(folder: Path) -> list[str]:
    """Return the names of the files that are not what the crate says: changed, missing, or there and not described.

    Where the crate itself is missing or cannot be read, that is it and every file.
    """
    present, described = _hashes(folder), described_files(folder)
    if not described:
        return sorted({METADATA, *present})
    return sorted(name for name in described.keys() | present.keys() if described.get(name) != present.get(name))


def _hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below the folder, by its path from there; without the crate's own."""
    found = {path.relative_to(folder).as_posix(): file_sha256(path) for path in folder.rglob("*")}
    return {name: sha256 for name, sha256 in found.items() if sha256 and name != METADATA}


def _id(*parts: str) -> str:
    """Return the name of what is in no file of the crate, whatever characters its parts have."""
    return "#" + "/".join(quote(part, safe="") for part in parts)


def _time(moment: datetime) -> str:
    return moment.astimezone(timezone.utc).isoformat(timespec="milliseconds")


def _about(name: str, sha256: str, description: str) -> dict[str, str]:
    """Return what the entity of a file says of it."""
    encoding = FORMATS.get(Path(name).suffix, "application/octet-stream")
    return {"name": name, "description": description, "encodingFormat": encoding, "sha256": sha256}


def _add(crate: ROCrate, entity_id: str, kind: str | list[str], **properties: Any) -> Entity:
    """Add an entity to the crate, without the properties that are None."""
    given = {name: value for name, value in properties.items() if value is not None}
    return crate.add(ContextEntity(crate, entity_id, {"@type": kind} | given))


def _run(crate: ROCrate, run: Result, package: Entity, used: list[Entity]) -> Entity:
    """Add a training run. One that diverged is completed too: that it did is its result.

    Args:
        crate: Where to add it.
        run: The run.
        package: The entity of this package.
        used: The entities of what every run uses, such as the data set.
    """
    final = {name: finite(values[-1]) for name, values in run.epochs.items()}
    results = [
        _add(crate, _id("run", run.run_id, name), "PropertyValue", name=name, value=value)
        for name, value in sorted((final | {"outcome": run.outcome}).items())
    ]
    # There is one entity for the same value, however many runs had it.
    parameters = [
        _add(crate, _id("parameter", name, value), "PropertyValue", name=name, value=value)
        for name, value in sorted((name, str(value)) for name, value in run.trial.parameters().items())
    ]
    return _add(
        crate, _id("run", run.run_id), "CreateAction",
        name=run.trial.label, description=f"A training run of the study; it {run.outcome}", identifier=run.run_id,
        instrument=package, object=[*used, *parameters], result=results,
        startTime=_time(run.started_at), endTime=_time(run.ended_at), actionStatus=COMPLETED,
    )  # fmt: skip


def _package(crate: ROCrate, citation: dict[str, Any], environment: Mapping[str, str]) -> Entity:
    """Add what ran: this package, as CITATION.cff has it, and the versions that it ran on.

    A commit that is not known is left out; that the files may not be the commit's is said.
    """
    changes, commit = environment["uncommitted changes"], environment["commit"]
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
            _add(crate, home, "SoftwareApplication", name=name, softwareVersion=environment[name], url=home)
            for name, home in HOMES.items()
            if name in environment
        ],
    )  # fmt: skip


def _describe_root(crate: ROCrate, publication: Publication, package: Entity, **properties: object) -> None:
    """Say what the folder is as a whole. It names no publisher, and its actions no agent: nobody knows who ran this."""
    publisher, year, title = publication.publisher, publication.year, publication.title
    organization = publisher and _add(crate, publisher.url, "Organization", name=publisher.name, url=publisher.url)
    authors = [
        _add(crate, _id("author", name), "Person", name=name, affiliation=organization) for name in publication.authors
    ]
    paper = _add(
        crate, "#paper", "Report",
        name=title, author=authors, publisher=organization, url=publication.url, datePublished=str(year),
    )  # fmt: skip
    named = ", ".join([*publication.authors, *([publisher.name] if publisher else []), str(year)])
    profile = _add(crate, PROFILE, "CreativeWork", name="Process Run Crate", version=PROFILE.rpartition("/")[2])
    properties |= {
        "description": f"What \"{title}\" ({named}) reports, beside "
        "what training runs of the same models gave",
        "license": package["license"], "author": package["author"], "citation": paper, "conformsTo": profile,
    }  # fmt: skip
    for key, value in properties.items():
        crate.root_dataset[key] = value
