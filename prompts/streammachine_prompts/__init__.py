"""The texts of prompts and skills: one folder each, in it SKILL.md, Markdown with front matter."""
