"""What happens, told to who asked: the reader of streams, events with cursors, subscriptions to resources."""
