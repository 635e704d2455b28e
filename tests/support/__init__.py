"""What the tests share: servers, clients, made-up data."""
