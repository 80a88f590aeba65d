"""`piflow ui`: a page in the browser to draw, compare and read results on."""
