"""What a study says of its rows: tables, figures and verdicts, one file per study. Nothing here is measured, so no key holds it."""
