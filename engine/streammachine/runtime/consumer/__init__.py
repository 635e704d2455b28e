"""A consumer of one stream: it reads, runs handlers, settles, renews and takes over."""
