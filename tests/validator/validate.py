"""What the RO-Crate project's own validator finds in a crate, as JSON, without a network.

    tests/validator/.venv/bin/python -I tests/validator/validate.py FOLDER PROFILE SEVERITY

PROFILE is as ro-crate-1.1 or process-run-crate, SEVERITY the least to report: REQUIRED, RECOMMENDED or OPTIONAL. What
is printed is a list of findings, [severity, what it is about, message], empty for a crate that conforms.

The validator's own offline mode answers every request from its cache. The one document that it asks for, the context
that the crate names, is put there from the package `rocrate`, which carries it.
"""

import io
import json
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests_cache import CachedSession
from rocrate_validator import services
from rocrate_validator.models import ValidationSettings

CONTEXT = "https://w3id.org/ro/crate/1.1/context"


class Packaged(HTTPAdapter):
    """Answers with the packaged context whatever is asked for."""

    def send(self, request: requests.PreparedRequest, **_) -> requests.Response:
        text = files("rocrate").joinpath("data/ro-crate.jsonld").read_bytes()
        if json.loads(text)["@id"] != CONTEXT:
            raise SystemExit(f"the packaged context is another one than {CONTEXT}")
        headers = {"Content-Type": "application/ld+json"}
        answer = urllib3.HTTPResponse(io.BytesIO(text), headers, status=200, preload_content=False)
        return self.build_response(request, answer)


def findings(folder: str, profile: str, severity: str) -> list[tuple[str, str, str]]:
    """(severity, entity, message) of everything that the folder's crate lacks of the profile and those it rests on."""
    with tempfile.TemporaryDirectory() as home:
        cache = Path(home) / "cache"
        with CachedSession(str(cache), backend="sqlite", expire_after=-1) as session:
            session.mount(CONTEXT, Packaged())
            session.get(CONTEXT)
        settings = ValidationSettings(
            rocrate_uri=folder,
            profile_identifier=profile,
            requirement_severity=severity,
            offline=True,
            cache_path=cache,
        )
        issues = services.validate(settings).get_issues()
    return sorted((issue.severity.name, str(issue.violatingEntity), str(issue.message)) for issue in issues)


if __name__ == "__main__":
    print(json.dumps(findings(*sys.argv[1:])))
