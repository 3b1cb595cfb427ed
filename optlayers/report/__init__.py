"""The report of a study as HTML, Markdown and JSON, and what optuna-dashboard shows of it."""
