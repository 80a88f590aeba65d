"""What is measured of videos: what changes in them, and how metrics of pictures see them."""
