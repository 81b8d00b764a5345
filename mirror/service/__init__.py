"""What runs: the store, the services made from the settings, listening, and the life of the process."""
