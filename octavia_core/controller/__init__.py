"""The only room with doors to all others: wiring, accepting wishes, worker, health, explaining."""
