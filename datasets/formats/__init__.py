"""Data formats: folders, archives, lists, arrays, TFDS."""
