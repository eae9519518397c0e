"""What the pages take from the code. Each function here gives Markdown."""
