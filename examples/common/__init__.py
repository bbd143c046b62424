"""What the short examples share: images, a command line, and the table that they print."""
