"""The table of faults in docs/reliability.md, put there from docs/faults.json, which `make test-faults` writes."""

import json
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs" / "faults.json", ROOT / "docs" / "reliability.md"
DAMAGE = ("points_lost", "bits_changed", "doubled", "left_running", "half_written")


def table(record: dict) -> str:
    """Return the record as Markdown."""
    names = DAMAGE
    head = ["what happened", "while this ran", "times", *(name.replace("_", " ") for name in names), "result"]
    lines = [head, ["-"] * len(head)]
    for row in record["rows"]:
        lines.append([row["fault"], row["during"], row["times"], *(row[name] for name in names), row["outcome"]])
    total = ["together", "", *(sum(row[name] for row in record["rows"]) for name in ("times", *names)), ""]
    lines.append([f"**{cell}**" if cell != "" else "" for cell in total])
    text = "\n".join("|" + "|".join(f" {cell} " if cell != "-" else "-" for cell in line) + "|" for line in lines)
    made = Counter(f"{row['on']} at commit {row['commit']}" for row in record["rows"])
    by = "; ".join(f"{count} row{'s' * (count > 1)} on {when}" for when, count in made.items())
    return f"{text}\n\nMade by `make test-faults`: {by}.\n"


def page_with(record: dict, page: str) -> str:
    """Return the page with the record's table in its place."""
    return re.sub(
        r"(?<=<!-- faults -->\n).*(?=<!-- /faults -->)", lambda _: table(record), page, count=1, flags=re.DOTALL
    )


if __name__ == "__main__":
    PAGE.write_text(page_with(json.loads(RECORD.read_text()), PAGE.read_text()))
