"""What only a PostgreSQL database needs."""
