"""The prompt texts: Markdown with front matter, one file per prompt."""
