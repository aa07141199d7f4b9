"""Files to run the server in containers, and the two small commands that they need. See README.md."""
