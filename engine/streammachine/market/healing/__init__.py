"""What has arrived, what is missing, and how it is fetched."""
