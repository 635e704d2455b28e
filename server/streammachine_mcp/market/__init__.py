"""What the server runs on the market road: remembered runners and backfills, and the process that hosts them."""
