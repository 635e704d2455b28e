"""Live data: runners, feeds, warm-up, idle closing, merging."""
