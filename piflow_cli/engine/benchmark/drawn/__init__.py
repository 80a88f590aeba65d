"""What was seen of a row's pictures: drawn now, or kept from another benchmark."""
