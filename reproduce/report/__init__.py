"""The report: tables, figures, the page, and their description."""
