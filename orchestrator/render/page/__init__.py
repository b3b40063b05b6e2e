"""report.html: the report as one page that needs nothing else, with pictures and texts token by token."""
