"""Names of the fields that the runtime adds to entries."""

from __future__ import annotations

HEADER = "sm-"  # fields of ours begin so; Message.message omits them
SENT = b"sm-sent"  # epoch milliseconds at which the message was sent
ATTEMPT = b"sm-attempt"  # how often a message in a retry companion was tried before
ORIGIN_ID = b"sm-origin-id"  # the id it had in its own stream
ORIGIN_STREAM = b"sm-origin-stream"
FIRST_SEEN = b"sm-first-seen"  # epoch milliseconds of the first attempt
