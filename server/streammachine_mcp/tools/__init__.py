"""The tool families: one file each, each a provider."""
