"""The report of a run: tables, figures and text from the documents in its folder."""
