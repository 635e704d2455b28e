"""The parent's side of child processes: worker pools, isolated runs, supervision, reports."""
