"""Traffic whose every answer is checked, while somebody breaks the system."""
