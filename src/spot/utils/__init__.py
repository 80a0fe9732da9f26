"""What every room may use: errors, files, processes, progress, the machine."""
