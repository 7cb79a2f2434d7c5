"""Single images: decoding, resizing, augmentation."""
