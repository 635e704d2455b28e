"""History: REST pages and bulk files into sinks, resumable."""
