"""What an App is made of: agents, messages, settings, retries, headers, counters. No I/O."""
