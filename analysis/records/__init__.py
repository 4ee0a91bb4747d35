"""What runs wrote, as data frames."""
