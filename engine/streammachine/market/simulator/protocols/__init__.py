"""One file per exchange: its protocol seen from the other side."""
