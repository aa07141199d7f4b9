"""Who may use the server, how much, and over which connections."""
