"""Rows from files, tasks that give them meaning, and batches in an order that only the seed decides."""
