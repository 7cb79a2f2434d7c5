"""What data come as: folders, archives, lists, arrays, TFDS."""
