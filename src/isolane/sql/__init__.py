"""What is kept in SQL: the tables, and the statements that every database of `engines` runs."""
