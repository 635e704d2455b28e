"""Who may call over HTTP, and what: tokens, JWT, scopes, the rate, and a line in the log for each write."""
