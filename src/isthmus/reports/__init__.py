"""From data to pages: Markdown, HTML, SVG. Pure, and without knowledge of what the data are about."""
