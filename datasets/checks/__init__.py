"""Image checks: undecodable files and duplicates across splits."""
