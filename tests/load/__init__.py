"""Load: many clients call the server at once; nothing fails, and its memory does not grow."""
