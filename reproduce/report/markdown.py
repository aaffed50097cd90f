"""report.md: the report as text, with its figures beside it."""

from collections.abc import Mapping

from reproduce.report import html, tables, wording
from reproduce.report.report_data import ReportData
from reproduce.results import comparisons, verdicts


def render(data: ReportData, drawn: Mapping[str, str]) -> str:
    """Return report.md. `drawn` names the figures' files, without ending, by what they show."""
    paper = data.paper
    return html.TEMPLATES.get_template("report.md.j2").render(
        data=data,
        paper=paper,
        wording=wording,
        mean_proposal=wording.mean_proposal(data),
        seeds=wording.seed_count(data),
        verdict=verdicts.sentence(data.judgements) if data.judgements else None,
        claims=verdicts.table(data.judgements, data.paper).markdown() if data.judgements else None,
        contradictions=wording.contradictions(data),
        readings=wording.curve_readings(data),
        rules=wording.rules_table(data).markdown() if data.suggested else None,
        regret=comparisons.regret_table(data.regrets).markdown() if data.regrets else None,
        costs=comparisons.cost_lines(data.regrets) if data.regrets else [],
        optimizers=data.optimizers.markdown() if len(data.optimizers.rows) > 1 else None,
        table=tables.models_table(data.rows).markdown() if data.rows else None,
        has_reference=paper.file.with_name(verdicts.REFERENCE_SPREAD).is_file(),
        drawn=drawn,
        sections=[
            {"name": tables.schedule_name(scheduler), "figure": paper.figure(scheduler), "file": drawn[scheduler]}
            for scheduler in data.collection.config.schedulers or paper.schedulers
            if scheduler in drawn
        ],
    )
