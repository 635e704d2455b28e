"""The delivery protocol of one stream and group: take, commit, retry, dead letter, retention."""
