"""What a storage keeps, as tables on a terminal."""
