"""Checks of images: undecodable files, duplicates and look-alikes across splits."""
