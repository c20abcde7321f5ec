"""What people see in a terminal: consoles, visible text and progress bars."""
