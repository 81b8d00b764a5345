"""What is noted of the work: two logs, metrics, running totals, and what policy wants to be known."""
