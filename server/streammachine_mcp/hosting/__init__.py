"""What the server runs in other processes: the App, declared agents, runners, backfills."""
