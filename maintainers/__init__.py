"""What runs the series and made its data; see README.md."""
