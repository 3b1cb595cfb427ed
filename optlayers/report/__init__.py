"""The report of a study: what its trials say, as data, figures, HTML, Markdown and JSON."""
