"""Checks of images: undecodable files and duplicates across splits."""
