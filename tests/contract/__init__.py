"""What each protocol promises on the wire: what comes back, what is stored, what was asked upstream."""
