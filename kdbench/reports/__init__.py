"""Finished runs beside published numbers: HTML, Markdown, LaTeX, CSV, Parquet."""
